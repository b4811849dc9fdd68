package inflate

import "math/bits"

// A table finds the symbol at the beginning of the next bits. Its first 1<<main
// entries are looked up with as many bits; codes longer than that have a table of their
// own behind these, to which an entry of the first leads.
//
// An entry's lowest six bits are what it takes from the bit buffer; it is 0 if no
// code begins so. What else is in it:
//
//	literals      isLiteral, how many (1 or 2) from bit 24, the first from bit 8, the second from bit 16
//	length        base from bit 16, bits of the code itself from bit 8; the rest are extra bits
//	distance      the same
//	end of block  isEnd
//	link          isLink, index of the table from bit 8, its bits in the lowest six
//
// Source: RFC 1951, 3.2.5; one word for all of it is libdeflate's idea.
const (
	isLink    = 1 << 31
	isLiteral = 1 << 30 // not of distances, whose base reaches up here
	isEnd     = 1 << 29

	litMain  = 11
	distMain = 9

	// Powers of two, so that an index need only be masked. The largest tables of
	// codes of up to 15 bits take 2,342 entries for 288 symbols with 11 bits at first, and
	// 402 for 32 with 9.
	litSize  = 4096
	distSize = 1024

	maxBits = 15
)

// lengths are of the symbols from 257 on, distances of all: base and extra bits.
var (
	lengths = [29]uint32{
		3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16, 8 << 16, 9 << 16, 10 << 16,
		11<<16 | 1, 13<<16 | 1, 15<<16 | 1, 17<<16 | 1, 19<<16 | 2, 23<<16 | 2, 27<<16 | 2, 31<<16 | 2,
		35<<16 | 3, 43<<16 | 3, 51<<16 | 3, 59<<16 | 3, 67<<16 | 4, 83<<16 | 4, 99<<16 | 4, 115<<16 | 4,
		131<<16 | 5, 163<<16 | 5, 195<<16 | 5, 227<<16 | 5, 258 << 16,
	}
	distances = [30]uint32{
		1 << 16, 2 << 16, 3 << 16, 4 << 16, 5<<16 | 1, 7<<16 | 1, 9<<16 | 2, 13<<16 | 2,
		17<<16 | 3, 25<<16 | 3, 33<<16 | 4, 49<<16 | 4, 65<<16 | 5, 97<<16 | 5, 129<<16 | 6, 193<<16 | 6,
		257<<16 | 7, 385<<16 | 7, 513<<16 | 8, 769<<16 | 8, 1025<<16 | 9, 1537<<16 | 9, 2049<<16 | 10, 3073<<16 | 10,
		4097<<16 | 11, 6145<<16 | 11, 8193<<16 | 12, 12289<<16 | 12, 16385<<16 | 13, 24577<<16 | 13,
	}
)

const endOfBlock = 256

// literalEntry is that of a symbol whose code, or the rest of it, has n bits.
// Symbols that no stream may use are 0.
func literalEntry(symbol int, n uint) uint32 {
	switch {
	case symbol < endOfBlock:
		return isLiteral | 1<<24 | uint32(symbol)<<8 | uint32(n)
	case symbol == endOfBlock:
		return isEnd | uint32(n)
	case symbol-257 < len(lengths):
		return lengths[symbol-257] + uint32(n) | uint32(n)<<8
	}
	return 0
}

func distanceEntry(symbol int, n uint) uint32 {
	if symbol < len(distances) {
		return distances[symbol] + uint32(n) | uint32(n)<<8
	}
	return 0
}

// build makes a table of canonical codes, of which lens has the lengths, 0 for none.
// It reports whether they are a code: complete, or a single one of one bit,
// or none, which is right as long as no symbol comes. Source: RFC 1951, 3.2.2; as
// compress/flate.
func build(table []uint32, main uint, lens []uint8, entry func(symbol int, n uint) uint32) bool {
	var count, first [maxBits + 2]int
	for _, l := range lens {
		count[l]++
	}
	count[0] = 0
	left, longest := 1, uint(0)
	for l := 1; l <= maxBits; l++ {
		if left = left<<1 - count[l]; left < 0 {
			return false
		}
		if first[l+1] = first[l] + count[l]; count[l] > 0 {
			longest = uint(l)
		}
	}
	if left > 0 && longest > 0 && !(longest == 1 && count[1] == 1) {
		return false
	}
	var sorted [288]uint16 // symbols by code
	at := first
	for symbol, l := range lens {
		if l > 0 {
			sorted[at[l]] = uint16(symbol)
			at[l]++
		}
	}

	// The first part grows by doubling: the entries of codes of up to l bits repeat
	// every 1<<l.
	table[0], table[1] = 0, 0
	symbols := sorted[:first[maxBits+1]]
	code := 0
	for l := uint(1); l <= main; l++ {
		if l > 1 {
			code <<= 1
			copy(table[1<<(l-1):1<<l], table[:1<<(l-1)])
		}
		for range count[l] {
			table[reversed(code, l)] = entry(int(symbols[0]), l)
			symbols = symbols[1:]
			code++
		}
	}

	// Codes with the same first bits follow one another.
	end := 1 << main
	link := -1
	var start int
	var room uint
	for l := main + 1; l <= longest; l++ {
		code <<= 1
		for rest := count[l]; rest > 0; rest-- {
			r := reversed(code, l)
			if at := r & (1<<main - 1); at != link {
				link = at
				// As many bits as the code needs that begins with these.
				room = l - main
				for free := 1<<room - rest; free > 0 && main+room < longest; {
					room++
					free = free<<1 - count[main+room]
				}
				start, end = end, end+1<<room
				if end > len(table) {
					return false
				}
				table[link] = isLink | uint32(start)<<8 | uint32(room)
			}
			e := entry(int(symbols[0]), l-main)
			symbols = symbols[1:]
			code++
			for i := r >> main; i < 1<<room; i += 1 << (l - main) {
				table[start+i] = e
			}
		}
	}
	return true
}

// reversed is a code of n bits as it stands in the bit buffer: its first bit lowest.
func reversed(code int, n uint) int { return int(bits.Reverse16(uint16(code)) >> (16 - n)) }

// pair joins literals: an entry whose code leaves bits of the look-up for that of
// another literal takes both at once. From the end, since an entry looks at lower ones.
func pair(table []uint32) {
	table = table[:1<<litMain]
	for i := len(table) - 1; i >= 0; i-- {
		e := table[i]
		if e&isLiteral == 0 {
			continue
		}
		n := e & 63
		next := table[i>>n]
		if next&isLiteral == 0 || n+next&63 > litMain {
			continue
		}
		table[i] = isLiteral | 2<<24 | next&0xff00<<8 | e&0xff00 | (n + next&63)
	}
}
