package inflate

// maxCode is the longest code of literals, lengths and distances in bits. RFC 1951, 3.2.7.
const maxCode = 15

// block reads the header of a DEFLATE block. RFC 1951, 3.2.3.
func (z *Reader) block() error {
	if z.last {
		z.last = false
		z.state = inTrailer
		return nil
	}
	h, err := z.take(3)
	if err != nil {
		return err
	}
	z.last = h&1 != 0
	switch h >> 1 {
	case 0:
		return z.beginStored()
	case 1:
		z.state = inHuffman
		z.setFixed()
		return nil
	case 2:
		z.state = inHuffman
		return z.readCodes()
	}
	return ErrCorrupt
}

// beginStored reads LEN and NLEN. RFC 1951, 3.2.4.
func (z *Reader) beginStored() error {
	z.align()
	v, err := z.take(32)
	if err != nil {
		return err
	}
	if v&0xffff != ^v>>16&0xffff {
		return ErrCorrupt
	}
	z.stored = int(v & 0xffff)
	z.state = inStored
	return nil
}

func (z *Reader) copyStored() error {
	for z.stored > 0 {
		room := len(z.out) - Slack - z.op
		if room <= 0 {
			return nil
		}
		if z.pos == z.end {
			if err := z.more(); err != nil {
				return err
			}
		}
		n := min(z.stored, room, z.end-z.pos)
		copy(z.out[z.op:], z.buf[z.pos:z.pos+n])
		z.op += n
		z.pos += n
		z.stored -= n
	}
	z.state = inBlock
	return nil
}

// lengthOrder is that of the code length code. RFC 1951, 3.2.7.
var lengthOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readCodes reads the codes of a block with dynamic ones. RFC 1951, 3.2.7.
func (z *Reader) readCodes() error {
	v, err := z.take(14)
	if err != nil {
		return err
	}
	lits, dists, n := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if lits > 286 || dists > 30 {
		return ErrCorrupt
	}
	var lengths [19]uint8
	for _, symbol := range lengthOrder[:n] {
		v, err := z.take(3)
		if err != nil {
			return err
		}
		lengths[symbol] = uint8(v)
	}
	var buf [286 + 30]uint8
	code := buf[:lits+dists]
	if err := z.readLengths(&lengths, code); err != nil {
		return err
	}
	return z.setDynamic(code[:lits], code[lits:])
}

// readLengths reads the lengths of a block's codes, which are run-length
// encoded and then written with a code of their own, whose lengths are own.
func (z *Reader) readLengths(own *[19]uint8, lengths []uint8) error {
	table := &z.lengths
	if err := build(table[:], lengthBits, own[:], lengthSymbols[:]); err != nil {
		return err
	}
	for i := 0; i < len(lengths); {
		e, err := z.symbol(table[:], lengthBits)
		if err != nil {
			return err
		}
		s := e >> 16
		if s < 16 {
			lengths[i] = uint8(s)
			i++
			continue
		}
		run := [3]struct{ least, extra uint8 }{{3, 2}, {3, 3}, {11, 7}}[s-16]
		var value uint8
		if s == 16 {
			if i == 0 {
				return ErrCorrupt
			}
			value = lengths[i-1]
		}
		more, err := z.take(uint(run.extra))
		if err != nil {
			return err
		}
		n := int(run.least) + int(more)
		if n > len(lengths)-i {
			return ErrCorrupt
		}
		for range n {
			lengths[i] = value
			i++
		}
	}
	return nil
}
