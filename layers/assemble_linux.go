package layers

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"skiff/layers/tarsplit"

	"golang.org/x/sys/unix"
)

// A Damage is a place of a layer on disk that is not as it was unpacked.
type Damage struct {
	Path string // below the layer's root; "" is the record of its archive
	Why  string
}

func (d Damage) String() string {
	if d.Path == "" {
		return d.Why
	}
	return quote(d.Path) + ": " + d.Why
}

// A DamageError is a layer that can't be read as it was.
type DamageError struct{ Damage }

func (e *DamageError) Error() string { return "damaged: " + e.Damage.String() }

func (e *DamageError) Unwrap() error { return ErrDamaged }

// Assemble writes the archive that Apply unpacked into root, byte for byte, by
// what Apply wrote to Options.Split.
//
// A file that is gone, or not what it was, is told to damaged, and as many zeros stand for it
// as the archive had bytes there. If damaged is nil, the first one is the error, a *DamageError. Else the error is
// that of w, of split, or an errno of reading root.
//
// It follows no link. The layer is complete and nobody changes it meanwhile.
func Assemble(root *os.File, split io.Reader, w io.Writer, damaged func(Damage)) error {
	r, err := tarsplit.NewReader(split)
	if err != nil {
		return err
	}
	a := &assembler{
		root: int(root.Fd()), w: w, buf: make([]byte, 0, blockSize), damaged: damaged,
		table: crc32.MakeTable(crc32.Castagnoli),
	}
	for {
		record, err := r.Next()
		if err == io.EOF {
			return a.flush()
		}
		if err == nil {
			err = a.put(&record)
		}
		if err != nil {
			return err
		}
	}
}

// atMost is w that takes so many bytes of an archive, or all if none are said.
func atMost(w io.Writer, size int64) io.Writer {
	if size == 0 {
		return w
	}
	return &bounded{w, size, size}
}

type bounded struct {
	w          io.Writer
	size, left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("%w: it makes more than the archive's %d bytes", tarsplit.ErrFormat, b.size)
	}
	return b.w.Write(p)
}

// An assembler gathers the archive in blocks.
type assembler struct {
	root    int
	w       io.Writer
	buf     []byte
	damaged func(Damage)
	table   *crc32.Table
}

func (a *assembler) put(r *tarsplit.Record) error {
	if r.Path != "" {
		return a.file(r)
	}
	if r.Zeros > 0 {
		return a.zeros(r.Zeros)
	}
	for b := r.Bytes; len(b) > 0; {
		room, err := a.room()
		if err != nil {
			return err
		}
		n := copy(room, b)
		a.buf = a.buf[:len(a.buf)+n]
		b = b[n:]
	}
	return nil
}

// room is what is free in the buffer, never nothing.
func (a *assembler) room() ([]byte, error) {
	if len(a.buf) == cap(a.buf) {
		if err := a.flush(); err != nil {
			return nil, err
		}
	}
	return a.buf[len(a.buf):cap(a.buf)], nil
}

func (a *assembler) flush() error {
	_, err := a.w.Write(a.buf)
	a.buf = a.buf[:0]
	return err
}

func (a *assembler) zeros(n int64) error {
	for n > 0 {
		room, err := a.room()
		if err != nil {
			return err
		}
		room = room[:min(n, int64(len(room)))]
		clear(room)
		a.buf = a.buf[:len(a.buf)+len(room)]
		n -= int64(len(room))
	}
	return nil
}

// file puts a file's runs.
func (a *assembler) file(r *tarsplit.Record) error {
	fd, size, err := a.open(r.Path)
	if err != nil {
		switch err {
		case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.EIO, errNotRegular:
			return a.lost(r, 0, err.Error())
		}
		return &os.PathError{Op: "open", Path: r.Path, Err: err}
	}
	defer unix.Close(fd)
	var crc uint32
	for i, run := range r.Runs {
		if run.Size > size-run.Offset {
			return a.lost(r, i, fmt.Sprintf("it has %d bytes, fewer than %d", size, run.Offset+run.Size))
		}
		var left int64
		if crc, left, err = a.run(fd, run, crc); err != nil && left > 0 {
			// A bad sector, or a file that shrinks.
			r.Runs[i].Size = left
			return a.lost(r, i, err.Error())
		}
		if err != nil {
			return err
		}
	}
	if crc != r.CRC {
		return a.tell(Damage{r.Path, "its content has changed"})
	}
	return nil
}

// open opens a regular file of the layer.
func (a *assembler) open(path string) (fd int, size int64, err error) {
	fd, err = openBeneath(a.root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return -1, 0, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, st.Size, nil
}

// run puts one run and adds it to the checksum. Of a file that can't be read it
// returns how much is left; else an error is the destination's.
func (a *assembler) run(fd int, run tarsplit.Run, crc uint32) (sum uint32, left int64, err error) {
	if _, err := unix.Seek(fd, run.Offset, io.SeekStart); err != nil {
		return crc, run.Size, err
	}
	for left = run.Size; left > 0; {
		room, err := a.room()
		if err != nil {
			return crc, 0, err
		}
		room = room[:min(left, int64(len(room)))]
		n, err := unix.Read(fd, room)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return crc, left, err
		case n == 0:
			return crc, left, io.ErrUnexpectedEOF
		}
		crc = crc32.Update(crc, a.table, room[:n])
		a.buf = a.buf[:len(a.buf)+n]
		left -= int64(n)
	}
	return crc, 0, nil
}

// lost puts zeros for the runs of a file from the one of that number on.
func (a *assembler) lost(r *tarsplit.Record, from int, why string) error {
	if err := a.tell(Damage{r.Path, why}); err != nil {
		return err
	}
	for _, run := range r.Runs[from:] {
		if err := a.zeros(run.Size); err != nil {
			return err
		}
	}
	return nil
}

func (a *assembler) tell(d Damage) error {
	if a.damaged == nil {
		return &DamageError{d}
	}
	a.damaged(d)
	return nil
}
