package inflate

import "math/bits"

// Widths of the first lookup. Longer codes take a second one, in a subtable.
const (
	litBits    = 11
	distBits   = 9
	lengthBits = 7 // of the code length code, which has no longer codes
)

// An entry of a table is a uint32:
//
//	bits 0-5        what to drop: the code's bits, in this table, and its extra bits
//	bits 8-12       the code's bits alone
//	bits 13-15, 31  the flags below
//	bits 16-30      a literal, a base of length or distance, or a code length symbol
//
// An entry that leads to a subtable is flagged and has in bits 16-30 where that
// begins, in bits 8-12 how many bits choose from it, and in bits 0-5 the width
// of the first lookup.
const (
	flagLiteral = 1 << 31
	flagOther   = 1 << 15 // none of literal, length, distance: also one of
	flagSub     = 1 << 14 //   a subtable
	flagEnd     = 1 << 13 //   the end of the block; neither: no symbol
)

// noSymbol is what no code stands for.
const noSymbol = flagOther

// Sizes of tables, powers of two, so that a mask proves an index right. Of a complete
// code, 2342 and 594 entries are used at most (zlib's examples/enough.c for 288
// and 32 symbols).
const (
	litSize  = 4096
	distSize = 1024
)

// tables are those of the current block, and what they are made of.
type tables struct {
	lit     [litSize]uint32
	dist    [distSize]uint32
	lengths [1 << lengthBits]uint32
	fixed   bool // the tables are those of fixed codes

	litSymbols  [288]uint32 // entries without a code's bits
	distSymbols [32]uint32
}

// init makes the symbols of RFC 1951, 3.2.5. Literals 286 and 287 and distances
// 30 and 31 have codes in fixed blocks, and no meaning.
func (t *tables) init() {
	for i := range t.litSymbols {
		t.litSymbols[i] = noSymbol
	}
	for i := range 256 {
		t.litSymbols[i] = flagLiteral | uint32(i)<<16
	}
	t.litSymbols[256] = flagOther | flagEnd
	for i, base := 257, uint32(3); i < 285; i++ {
		extra := max(i-261, 0) / 4
		t.litSymbols[i] = base<<16 | uint32(extra)
		base += 1 << extra
	}
	t.litSymbols[285] = 258 << 16
	for i, base := 0, uint32(1); i < 30; i++ {
		extra := max(i-2, 0) / 2
		t.distSymbols[i] = base<<16 | uint32(extra)
		base += 1 << extra
	}
	t.distSymbols[30], t.distSymbols[31] = noSymbol, noSymbol
}

// lengthSymbols are those of the code length code.
var lengthSymbols = [19]uint32{
	0 << 16, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16, 8 << 16, 9 << 16,
	10 << 16, 11 << 16, 12 << 16, 13 << 16, 14 << 16, 15 << 16, 16 << 16, 17 << 16, 18 << 16,
}

// setFixed makes the tables of fixed codes. RFC 1951, 3.2.6: of the 32 distance
// codes, all are part of the code.
func (t *tables) setFixed() {
	if t.fixed {
		return
	}
	var lengths [288]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	build(t.lit[:], litBits, lengths[:], t.litSymbols[:])
	for i := range 32 {
		lengths[i] = 5
	}
	build(t.dist[:], distBits, lengths[:32], t.distSymbols[:])
	t.fixed = true
}

// setDynamic makes the tables of codes with these lengths.
func (t *tables) setDynamic(lits, dists []uint8) error {
	if lits[256] == 0 {
		return ErrCorrupt // the block could not end
	}
	t.fixed = false
	if err := build(t.lit[:], litBits, lits, t.litSymbols[:]); err != nil {
		return err
	}
	return build(t.dist[:], distBits, dists, t.distSymbols[:])
}

// build makes the table of the canonical code whose lengths these are, at most maxCode
// each. RFC 1951, 3.2.2.
//
// A code must use all bit strings, but for two: one code of one bit, the other
// bit being an error in the data, and no code at all, where any bit is. So do
// zlib and compress/flate.
//
// Codes are walked in their order with their bits reversed, as the stream has
// them. A table of codes of up to n bits, doubled, is one of up to n+1 bits
// where only those of n+1 bits are missing. The way is libdeflate's build_decode_table.
func build(table []uint32, width int, lengths []uint8, symbols []uint32) error {
	var count [maxCode + 1]int
	for _, n := range lengths {
		count[n&maxCode]++
	}
	used := len(lengths) - count[0]
	count[0] = 0
	left := 1 // bit strings that are free
	var next [maxCode + 2]int
	for n := 1; n <= maxCode; n++ {
		left = left<<1 - count[n]
		if left < 0 {
			return ErrCorrupt
		}
		next[n+1] = next[n] + count[n]
	}
	size := 1 << width
	if left > 0 {
		if used > 1 || used == 1 && count[1] == 0 {
			return ErrCorrupt
		}
		for i := range table[:size] {
			table[i] = noSymbol
		}
		for s, n := range lengths {
			if n == 1 {
				for i := 0; i < size; i += 2 {
					table[i] = symbols[s] + (1<<8 | 1)
				}
			}
		}
		return nil
	}
	var sorted [288]uint16
	for s, n := range lengths {
		if n != 0 {
			sorted[next[n]] = uint16(s)
			next[n]++
		}
	}

	code, n, k := 0, 1, 0
	for count[n] == 0 {
		n++ // to no more than width: there are not symbols enough for more
	}
	filled := 1 << n // entries of the table that are made, or are to be before it is doubled
	for n <= width {
		for c := count[n]; c > 0; c-- {
			table[code] = symbols[sorted[k]] + uint32(n)<<8 + uint32(n)
			k++
			if code == filled-1 {
				for ; filled < size; filled <<= 1 {
					copy(table[filled:2*filled], table[:filled])
				}
				return nil
			}
			code = following(code, n)
		}
		for {
			n++
			if n <= width {
				copy(table[filled:2*filled], table[:filled])
				filled <<= 1
			}
			if count[n] != 0 {
				break
			}
		}
	}

	prefix, begin, end := -1, 0, size
	for c := count[n]; ; {
		if p := code & (size - 1); p != prefix {
			// The subtable is as wide as it must be for the codes that share this prefix.
			prefix, begin = p, end
			w := n - width
			for space := c; space < 1<<w; {
				w++
				space = space<<1 + count[width+w]
			}
			end = begin + 1<<w
			table[p] = flagOther | flagSub | uint32(begin)<<16 | uint32(w)<<8 | uint32(width)
		}
		e := symbols[sorted[k]] + uint32(n-width)<<8 + uint32(n-width)
		k++
		for i := begin + code>>width; i < end; i += 1 << (n - width) {
			table[i] = e
		}
		if code == 1<<n-1 {
			return nil
		}
		code = following(code, n)
		for c--; c == 0; {
			n++
			c = count[n]
		}
	}
}

// following returns the code of n bits after this one, both reversed: the
// highest 0 becomes 1, the ones above it 0.
func following(code, n int) int {
	bit := 1 << (bits.Len(uint(code^(1<<n-1))) - 1)
	return code&(bit-1) | bit
}
