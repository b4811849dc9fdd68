package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"skiff/run"
)

// relayOptions reads the options behind the colon of --network default:… and
// relay:…, in slirp4netns' words. Root's default network has none of them, so they ask for the
// relay. nil: there is no colon, and it was not asked for by name.
func relayOptions(mode string) (string, *run.RelayOptions, error) {
	name, list, given := strings.Cut(mode, ":")
	if name != "relay" && !(name == "default" && given) {
		return mode, nil, nil
	}
	o := &run.RelayOptions{}
	for option := range strings.SplitSeq(list, ",") {
		if option == "" && !given {
			break
		}
		key, value, _ := strings.Cut(option, "=")
		yes, err := strconv.ParseBool(value)
		switch key {
		case "allow_host_loopback":
			o.HostLoopback = yes
		case "allow_link_local":
			o.LinkLocal = yes
		case "enable_ipv6":
			o.IPv6 = &yes
		default:
			return "", nil, fmt.Errorf("unknown option %q; there are allow_host_loopback, allow_link_local and enable_ipv6", key)
		}
		if err != nil {
			return "", nil, errors.New(key + " is true or false")
		}
	}
	return "default", o, nil
}
