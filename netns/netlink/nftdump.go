package netlink

import "golang.org/x/sys/unix"

// A TableInfo is one nftables table.
type TableInfo struct {
	Family byte
	Name   string
	Flags  uint32 // TableOwner and others
	Owner  uint32 // netlink port of the owning socket; 0: none
}

// A ChainInfo is one nftables chain.
type ChainInfo struct {
	Chain
	Family byte
}

// A RuleInfo is one nftables rule, not decoded beyond its comment.
type RuleInfo struct {
	Table, Chain string
	Handle       uint64
	Comment      string
	Exprs        []byte // NFTA_RULE_EXPRESSIONS as the kernel wrote it
}

// dump asks for all objects of a kind and calls fn with family and attributes.
func (c *Conn) dump(op string, family byte, get uint16, fill func(b *Batch), reset func(), fn func(family byte, p []byte)) error {
	var b Batch
	b.message("nftables: "+op, nftSubsys|get, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b.nfgen(family, 0)
	fill(&b)
	b.end()
	return c.query(&b, reset, func(typ uint16, body []byte) {
		if typ>>8 == unix.NFNL_SUBSYS_NFTABLES && len(body) >= 4 {
			fn(body[0], body[4:])
		}
	})
}

// Generation is a number that changes with every nftables transaction in the
// socket's network namespace, whoever makes it.
func (c *Conn) Generation() (uint32, error) {
	var b Batch
	b.message("nftables: get generation", nftSubsys|unix.NFT_MSG_GETGEN, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b.nfgen(unix.AF_UNSPEC, 0)
	b.end()
	var gen uint32
	err := c.query(&b, func() {}, func(typ uint16, body []byte) {
		if typ == nftSubsys|unix.NFT_MSG_NEWGEN && len(body) >= 4 {
			attrs(body[4:], func(typ uint16, data []byte) {
				if typ == unix.NFTA_GEN_ID {
					gen = be32(data)
				}
			})
		}
	})
	return gen, err
}

// Tables lists the tables of a family; unix.NFPROTO_UNSPEC lists all.
func (c *Conn) Tables(family byte) ([]TableInfo, error) {
	var all []TableInfo
	err := c.dump("list tables", family, unix.NFT_MSG_GETTABLE, func(*Batch) {}, func() { all = nil }, func(family byte, p []byte) {
		t := TableInfo{Family: family}
		attrs(p, func(typ uint16, data []byte) {
			switch typ {
			case unix.NFTA_TABLE_NAME:
				t.Name = cstr(data)
			case unix.NFTA_TABLE_FLAGS:
				t.Flags = be32(data)
			case nftaTableOwner:
				t.Owner = be32(data)
			}
		})
		all = append(all, t)
	})
	return all, err
}

const nftaTableOwner = 7 // NFTA_TABLE_OWNER, linux/netfilter/nf_tables.h

// Chains lists the chains of all tables of a family.
func (c *Conn) Chains(family byte) ([]ChainInfo, error) {
	var all []ChainInfo
	err := c.dump("list chains", family, unix.NFT_MSG_GETCHAIN, func(*Batch) {}, func() { all = nil }, func(family byte, p []byte) {
		ch := ChainInfo{Family: family}
		attrs(p, func(typ uint16, data []byte) {
			switch typ {
			case unix.NFTA_CHAIN_TABLE:
				ch.Table = cstr(data)
			case unix.NFTA_CHAIN_NAME:
				ch.Name = cstr(data)
			case unix.NFTA_CHAIN_TYPE:
				ch.Type = cstr(data)
			case unix.NFTA_CHAIN_POLICY:
				ch.Drop = be32(data) == nfDrop
			case unix.NFTA_CHAIN_HOOK:
				attrs(data, func(typ uint16, data []byte) {
					switch typ {
					case unix.NFTA_HOOK_HOOKNUM:
						ch.Hook = be32(data)
					case unix.NFTA_HOOK_PRIORITY:
						ch.Priority = int32(be32(data))
					}
				})
			}
		})
		all = append(all, ch)
	})
	return all, err
}

// Rules lists the rules of one chain, in order.
func (c *Conn) Rules(family byte, table, chain string) ([]RuleInfo, error) {
	var all []RuleInfo
	err := c.dump("list rules of "+table+" "+chain, family, unix.NFT_MSG_GETRULE, func(b *Batch) {
		b.attrStr(unix.NFTA_RULE_TABLE, table, maxNftName)
		b.attrStr(unix.NFTA_RULE_CHAIN, chain, maxNftName)
	}, func() { all = nil }, func(_ byte, p []byte) {
		var r RuleInfo
		attrs(p, func(typ uint16, data []byte) {
			switch typ {
			case unix.NFTA_RULE_TABLE:
				r.Table = cstr(data)
			case unix.NFTA_RULE_CHAIN:
				r.Chain = cstr(data)
			case unix.NFTA_RULE_HANDLE:
				r.Handle = be64(data)
			case unix.NFTA_RULE_EXPRESSIONS:
				r.Exprs = append([]byte(nil), data...)
			case unix.NFTA_RULE_USERDATA:
				r.Comment = comment(data)
			}
		})
		if r.Table == table && r.Chain == chain { // kernels before 4.10 list all
			all = append(all, r)
		}
	})
	return all, err
}

// comment finds the comment in libnftnl's userdata: type, length, value.
func comment(p []byte) string {
	for len(p) >= 2 && len(p) >= 2+int(p[1]) {
		if p[0] == 0 {
			return cstr(p[2 : 2+int(p[1])])
		}
		p = p[2+int(p[1]):]
	}
	return ""
}
