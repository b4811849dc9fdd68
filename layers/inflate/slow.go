package inflate

// huffman takes symbols until the block ends or out is full.
func (z *Reader) huffman() error {
	for z.op < len(z.out)-Slack {
		if z.end-z.pos < fastInput && z.input.err == nil {
			z.more() // its error comes again where the input is used up
		}
		if z.end-z.pos >= fastInput {
			if err := z.fast(); err != nil || z.state != inHuffman {
				return err
			}
			continue
		}
		if err := z.slow(); err != nil || z.state != inHuffman {
			return err
		}
	}
	return nil
}

// slow takes one literal, one match or the end of the block, and no bit beyond.
// out has room for it.
func (z *Reader) slow() error {
	e, err := z.symbol(z.lit[:], litBits)
	if err != nil {
		return err
	}
	if e&flagLiteral != 0 {
		z.out[z.op] = byte(e >> 16)
		z.op++
		return nil
	}
	if e&flagEnd != 0 {
		z.state = inBlock
		return nil
	}
	n, err := z.value(e)
	if err != nil {
		return err
	}
	if e, err = z.symbol(z.dist[:], distBits); err != nil {
		return err
	}
	dist, err := z.value(e)
	if err != nil {
		return err
	}
	if dist > z.op-z.first {
		return ErrCorrupt
	}
	for range n {
		z.out[z.op] = z.out[z.op-dist]
		z.op++
	}
	return nil
}

// symbol returns a symbol's entry and drops its code, but not its extra bits.
func (z *Reader) symbol(table []uint32, width uint) (uint32, error) {
	for {
		e := table[z.bits&(1<<width-1)]
		n := uint(e >> 8 & 31)
		if e&flagSub != 0 {
			e = table[uint(e>>16)+uint(z.bits>>width&(1<<n-1))]
			n = width + uint(e>>8&31)
		}
		if n <= z.count && z.count > 0 {
			// The bits at hand decide: those above them, 0 here, have no say.
			if e&(flagOther|flagEnd) == noSymbol {
				return 0, ErrCorrupt
			}
			z.drop(n)
			return e, nil
		}
		if err := z.load(z.count + 1); err != nil {
			return 0, err
		}
	}
}

// value adds the extra bits of a length or a distance to its base.
func (z *Reader) value(e uint32) (int, error) {
	extra, err := z.take(uint(e&63 - e>>8&31))
	return int(e>>16) + int(extra), err
}
