package registry

import "context"

// Document is a pull.Describer's.
func (c *client) Document(ctx context.Context) (raw []byte, mediaType string, err error) {
	return c.document(ctx, identifier(c.ref))
}
