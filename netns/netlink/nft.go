package netlink

import "golang.org/x/sys/unix"

// TableOwner makes a table its netlink socket's: others may not change it, it
// survives "nft flush ruleset", and it is deleted when the socket is closed,
// also by SIGKILL (NFT_TABLE_F_OWNER, kernel 5.12; older ones give EINVAL or
// EOPNOTSUPP).
const TableOwner = 0x2

// Families (NFPROTO_*, linux/netfilter.h). FamilyINet is IPv4 and IPv6 in one table.
const (
	FamilyINet   = unix.NFPROTO_INET
	FamilyIPv4   = unix.NFPROTO_IPV4
	FamilyIPv6   = unix.NFPROTO_IPV6
	FamilyBridge = unix.NFPROTO_BRIDGE
)

const (
	nftSubsys  = unix.NFNL_SUBSYS_NFTABLES << 8
	maxNftName = 256 // NFT_NAME_MAXLEN, with the NUL
)

// Verdicts (linux/netfilter.h).
const (
	nfDrop   = 0
	nfAccept = 1
)

// A Transaction is a list of nftables changes that happen all at once or not
// at all.
//
// nf_tables keeps the order; a base chain must precede its rules.
type Transaction struct {
	b      Batch
	family byte
	setID  uint32
}

// NewTransaction starts an empty list. family is FamilyINet or another
// of its kind.
func NewTransaction(family byte) *Transaction {
	t := &Transaction{family: family}
	t.b.message("begin nftables transaction", unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST)
	t.b.nfgen(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	t.b.end()
	return t
}

// Family makes what follows of another family.
func (t *Transaction) Family(family byte) { t.family = family }

// nfgen appends a struct nfgenmsg; the resource id is in network byte order.
func (b *Batch) nfgen(family byte, res uint16) { b.raw(family, 0, byte(res>>8), byte(res)) }

func (t *Transaction) message(op string, typ, flags uint16) {
	t.b.message("nftables: "+op, nftSubsys|typ, unix.NLM_F_REQUEST|flags)
	t.b.nfgen(t.family, 0)
}

// NewTable adds a table, or keeps the one there is. flags: 0 or TableOwner.
func (t *Transaction) NewTable(name string, flags uint32) {
	t.message("add table "+name, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
	t.b.attrStr(unix.NFTA_TABLE_NAME, name, maxNftName)
	if flags != 0 {
		t.b.attrBE32(unix.NFTA_TABLE_FLAGS, flags)
	}
	t.b.end()
}

// DeleteTable deletes a table with all that is in it. ENOENT: there is none.
func (t *Transaction) DeleteTable(name string) {
	t.message("delete table "+name, unix.NFT_MSG_DELTABLE, 0)
	t.b.attrStr(unix.NFTA_TABLE_NAME, name, maxNftName)
	t.b.end()
}

// FlushTable deletes the rules of all chains of a table.
func (t *Transaction) FlushTable(name string) {
	t.message("flush table "+name, unix.NFT_MSG_DELRULE, 0)
	t.b.attrStr(unix.NFTA_RULE_TABLE, name, maxNftName)
	t.b.end()
}

// A Chain is a list of rules. With a Type it is a base chain, which packets
// enter at Hook in the order of Priority; without, one to jump to.
type Chain struct {
	Table, Name string
	Type        string // "filter", "nat", "route", or empty
	Hook        uint32 // unix.NF_INET_PRE_ROUTING and friends
	Priority    int32  // -300 raw, -150 mangle, -100 dstnat, 0 filter, 100 srcnat
	Drop        bool   // policy: what happens to packets no rule decided on
}

// NewChain adds a chain, or keeps the one there is.
func (t *Transaction) NewChain(c Chain) {
	t.message("add chain "+c.Table+" "+c.Name, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	t.b.attrStr(unix.NFTA_CHAIN_TABLE, c.Table, maxNftName)
	t.b.attrStr(unix.NFTA_CHAIN_NAME, c.Name, maxNftName)
	if c.Type != "" {
		h := t.b.nest(unix.NFTA_CHAIN_HOOK)
		t.b.attrBE32(unix.NFTA_HOOK_HOOKNUM, c.Hook)
		t.b.attrBE32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
		t.b.unnest(h)
		policy := uint32(nfAccept)
		if c.Drop {
			policy = nfDrop
		}
		t.b.attrBE32(unix.NFTA_CHAIN_POLICY, policy)
		t.b.attrStr(unix.NFTA_CHAIN_TYPE, c.Type, 32)
	}
	t.b.end()
}

// A Rule is a list of expressions, performed until one does not match.
type Rule struct {
	Table, Chain string
	Exprs        []Expr
	Comment      string // shown by nft; at most 127 bytes
	Insert       bool   // at the head of the chain instead of its end
}

// NewRule adds a rule.
func (t *Transaction) NewRule(r Rule) {
	flags := uint16(unix.NLM_F_CREATE)
	if !r.Insert {
		flags |= unix.NLM_F_APPEND
	}
	t.message("add rule to "+r.Table+" "+r.Chain, unix.NFT_MSG_NEWRULE, flags)
	t.b.attrStr(unix.NFTA_RULE_TABLE, r.Table, maxNftName)
	t.b.attrStr(unix.NFTA_RULE_CHAIN, r.Chain, maxNftName)
	list := t.b.nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, x := range r.Exprs {
		if x.err != nil {
			t.b.fail(x.err.Errno, x.err.Msg)
		}
		t.b.raw(x.list...)
	}
	t.b.unnest(list)
	if r.Comment != "" {
		// libnftnl's userdata: type 0 (NFTNL_UDATA_RULE_COMMENT), length, text with NUL
		if len(r.Comment) > 127 {
			t.b.fail(unix.EMSGSIZE, "comment too long")
		} else {
			u := append([]byte{0, byte(len(r.Comment) + 1)}, r.Comment...)
			t.b.attr(unix.NFTA_RULE_USERDATA, append(u, 0))
		}
	}
	t.b.end()
}

// Rule is NewRule at the end of a chain.
func (t *Transaction) Rule(table, chain string, exprs ...Expr) {
	t.NewRule(Rule{Table: table, Chain: chain, Exprs: exprs})
}

// DeleteRule deletes the rule with that handle.
func (t *Transaction) DeleteRule(table, chain string, handle uint64) {
	t.message("delete rule of "+table+" "+chain, unix.NFT_MSG_DELRULE, 0)
	t.b.attrStr(unix.NFTA_RULE_TABLE, table, maxNftName)
	t.b.attrStr(unix.NFTA_RULE_CHAIN, chain, maxNftName)
	t.b.attrBE64(unix.NFTA_RULE_HANDLE, handle)
	t.b.end()
}

// A Set is a set of keys, or with DataLen a map from keys to values.
type Set struct {
	Table, Name string // a name with %d is numbered by the kernel if Flags has NFT_SET_ANONYMOUS
	Flags       uint32 // unix.NFT_SET_CONSTANT and friends; NFT_SET_MAP comes with DataLen
	KeyType     uint32 // nft's own type number, for listing: 7 ipv4_addr, 13 inet_service; 0: integer
	KeyLen      uint32 // bytes
	DataType    uint32 // as KeyType; unix.NFT_DATA_VERDICT for verdict maps
	DataLen     uint32
}

// NewSet adds a set and returns the id by which Lookup in this transaction
// may refer to it.
func (t *Transaction) NewSet(s Set) (id uint32) {
	t.setID++
	flags := s.Flags
	if s.DataLen != 0 {
		flags |= unix.NFT_SET_MAP
	}
	t.message("add set "+s.Table+" "+s.Name, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE)
	t.b.attrStr(unix.NFTA_SET_TABLE, s.Table, maxNftName)
	t.b.attrStr(unix.NFTA_SET_NAME, s.Name, maxNftName)
	t.b.attrBE32(unix.NFTA_SET_FLAGS, flags)
	t.b.attrBE32(unix.NFTA_SET_KEY_TYPE, s.KeyType)
	t.b.attrBE32(unix.NFTA_SET_KEY_LEN, s.KeyLen)
	if s.DataLen != 0 {
		t.b.attrBE32(unix.NFTA_SET_DATA_TYPE, s.DataType)
		t.b.attrBE32(unix.NFTA_SET_DATA_LEN, s.DataLen)
	}
	t.b.attrBE32(unix.NFTA_SET_ID, t.setID)
	t.b.end()
	return t.setID
}

// An Element is a key of a set, with its value if the set is a map.
type Element struct {
	Key, Data   []byte
	IntervalEnd bool // the first key past an interval
}

// AddElements adds keys to a set; id is 0 for a set of an earlier transaction.
func (t *Transaction) AddElements(table, set string, id uint32, elements []Element) {
	t.message("add elements to "+table+" "+set, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE)
	t.b.attrStr(unix.NFTA_SET_ELEM_LIST_TABLE, table, maxNftName)
	t.b.attrStr(unix.NFTA_SET_ELEM_LIST_SET, set, maxNftName)
	if id != 0 {
		t.b.attrBE32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
	}
	list := t.b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, e := range elements {
		one := t.b.nest(unix.NFTA_LIST_ELEM)
		t.b.data(unix.NFTA_SET_ELEM_KEY, e.Key)
		if e.Data != nil {
			t.b.data(unix.NFTA_SET_ELEM_DATA, e.Data)
		}
		if e.IntervalEnd {
			t.b.attrBE32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		t.b.unnest(one)
	}
	t.b.unnest(list)
	t.b.end()
}

// data appends a value as a struct nft_data on the wire.
func (b *Batch) data(typ uint16, v []byte) {
	at := b.nest(typ)
	b.attr(unix.NFTA_DATA_VALUE, v)
	b.unnest(at)
}
