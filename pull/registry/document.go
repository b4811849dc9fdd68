package registry

import "context"

// Document is a pull.Describer's.
func (c *client) Document(ctx context.Context) (raw []byte, mediaType string, err error) {
	return c.document(ctx, identifier(c.ref))
}

// Document is a pull.Describer's: the first place's that has it.
func (m *mirrored) Document(ctx context.Context) (raw []byte, mediaType string, err error) {
	for i, c := range m.places {
		if !m.usable(c, m.ref.Digest == "") {
			continue
		}
		raw, mediaType, err = (&from{m, i}).document(ctx, identifier(m.ref))
		if err == nil || m.origin(c) || ctx.Err() != nil {
			break
		}
		m.failed(c, err)
	}
	return raw, mediaType, err
}
