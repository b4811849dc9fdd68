package store

import "strings"

// Fact returns what KeepFact was told under that name, a path in the store,
// since this host booted; "" if nothing was.
func (s *Store) Fact(name string) string {
	text, err := s.readFile(name, 1<<10)
	if err != nil {
		return ""
	}
	boot, value, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), " ")
	if boot != bootID() {
		return ""
	}
	return value
}

// KeepFact notes a line that is true of this host until it boots again.
func (s *Store) KeepFact(name, value string) error {
	if err := s.Writable(); err != nil {
		return err
	}
	return s.writeFile(name, []byte(bootID()+" "+value+"\n"))
}
