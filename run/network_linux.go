package run

// A network is what the run holds of its container's network while it lives.
type network struct {
	link    Link
	connect Connector
}

// network makes ready what a container's network needs before its namespace
// exists.
func (r *Runner) network(o *Options, id string) (*network, error) {
	return &network{}, nil
}
