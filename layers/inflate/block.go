package inflate

import "io"

// block reads the beginning of a block. Source: RFC 1951, 3.2.3.
func (r *Reader) block() error {
	if r.final {
		r.final = false
		r.state = atTrailer
		return nil
	}
	h, err := r.take(3)
	if err != nil {
		return err
	}
	r.final = h&1 != 0
	switch h >> 1 {
	case 0:
		return r.storedHeader()
	case 1:
		r.fixedCodes()
	case 2:
		err = r.dynamicCodes()
	default:
		err = r.broken("a block of no known type")
	}
	r.state = inCodes
	return err
}

// storedHeader reads the size of a stored block. Source: RFC 1951, 3.2.4.
func (r *Reader) storedHeader() error {
	r.align()
	v, err := r.take(32)
	if err != nil {
		return err
	}
	if uint16(v) != ^uint16(v>>16) {
		return r.broken("the size of a stored block is wrong")
	}
	r.stored = int(uint16(v))
	r.state = inStored
	return nil
}

// copyStored copies as much of the block as is at hand and fits.
func (r *Reader) copyStored() error {
	r.align()
	if r.stored == 0 {
		r.state = atBlock
		return nil
	}
	if r.pos == r.end {
		if r.fill(); r.pos == r.end {
			if r.bad == io.EOF {
				return io.ErrUnexpectedEOF
			}
			return r.bad
		}
	}
	w := &r.window
	n := copy(w.buf[w.end:windowFull], r.buf[r.pos:min(r.end, r.pos+r.stored)])
	w.end += n
	r.pos += n
	r.stored -= n
	return nil
}

// fixedCodes makes the tables of fixed blocks. Source: RFC 1951, 3.2.6.
func (r *Reader) fixedCodes() {
	if r.fixed {
		return
	}
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	build(r.lit[:], litMain, lens[:], literalEntry)
	pair(r.lit[:])
	// 32 codes make the code complete; the last two stand for nothing.
	for i := range 32 {
		lens[i] = 5
	}
	build(r.dist[:], distMain, lens[:32], distanceEntry)
	r.fixed = true
}

// codeOrder is that of the lengths of the code that the other two are written in.
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

const (
	maxLiterals  = 286
	maxDistances = 30
	codeMain     = 7
)

func codeEntry(symbol int, n uint) uint32 { return isLiteral | uint32(symbol)<<8 | uint32(n) }

// dynamicCodes reads the codes of a block and makes their tables.
// Source: RFC 1951, 3.2.7.
func (r *Reader) dynamicCodes() error {
	v, err := r.take(14)
	if err != nil {
		return err
	}
	literals, dists, codes := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if literals > maxLiterals || dists > maxDistances {
		return r.broken("a block has too many codes")
	}
	var lens [maxLiterals + maxDistances]uint8
	for _, symbol := range codeOrder[:codes] {
		n, err := r.take(3)
		if err != nil {
			return err
		}
		lens[symbol] = uint8(n)
	}
	var table [1 << codeMain]uint32
	if !build(table[:], codeMain, lens[:len(codeOrder)], codeEntry) {
		return r.broken("the code of a block's codes is none")
	}
	clear(lens[:len(codeOrder)])
	all := lens[:literals+dists]
	for i := 0; i < len(all); {
		e, err := r.lookUp(table[:], codeMain, isLiteral)
		if err != nil {
			return err
		}
		symbol := uint8(e >> 8)
		if symbol < 16 {
			all[i] = symbol
			i++
			continue
		}
		var value uint8
		var repeat, extra uint
		switch symbol {
		case 16:
			if i == 0 {
				return r.broken("a block repeats a length before the first")
			}
			value, repeat, extra = all[i-1], 3, 2
		case 17:
			repeat, extra = 3, 3
		default:
			repeat, extra = 11, 7
		}
		n, err := r.take(extra)
		if err != nil {
			return err
		}
		n += uint32(repeat)
		if int(n) > len(all)-i {
			return r.broken("a block repeats a length too often")
		}
		for range n {
			all[i] = value
			i++
		}
	}
	r.fixed = false
	switch {
	case all[endOfBlock] == 0:
		return r.broken("a block has no code for its end")
	case !build(r.lit[:], litMain, all[:literals], literalEntry):
		return r.broken("the literal code of a block is none")
	case !build(r.dist[:], distMain, all[literals:], distanceEntry):
		return r.broken("the distance code of a block is none")
	}
	pair(r.lit[:])
	return nil
}

// lookUp takes a symbol with as few bytes as it needs. Entries with any of the flags
// come as they are. Of others the extra bits are taken as well, and added to the base.
func (r *Reader) lookUp(table []uint32, main uint, flags uint32) (uint32, error) {
	for {
		e, first := table[r.bits&(1<<main-1)], uint(0)
		if e&isLink != 0 {
			first = main
			e = table[uint64(e>>8&0xffff)+r.bits>>main&(1<<(e&63)-1)]
		}
		n := first + uint(e&63)
		if e != 0 && n <= r.count {
			if e&flags == 0 {
				code := first + uint(e>>8&31)
				e = e>>16 + uint32(r.bits>>code)&(1<<(n-code)-1)
			}
			r.drop(n)
			return e, nil
		}
		if e == 0 && r.count >= maxBits {
			return 0, r.broken("no code begins with these bits")
		}
		if err := r.more(); err != nil {
			return 0, err
		}
	}
}

// careful decodes one symbol, or a match, where little input is left.
func (r *Reader) careful() (ended bool, err error) {
	e, err := r.lookUp(r.lit[:], litMain, isLiteral|isEnd)
	if err != nil {
		return false, err
	}
	w := &r.window
	switch {
	case e&isLiteral != 0:
		w.buf[w.end], w.buf[w.end+1] = byte(e>>8), byte(e>>16)
		w.end += int(e >> 24 & 3)
		return false, nil
	case e&isEnd != 0:
		return true, nil
	}
	length := int(e)
	d, err := r.lookUp(r.dist[:], distMain, 0)
	if err != nil {
		return false, err
	}
	if int(d) > w.end-w.low {
		return false, r.broken("a distance reaches before the beginning")
	}
	for range length {
		w.buf[w.end] = w.buf[w.end-int(d)]
		w.end++
	}
	return false, nil
}
