package inflate

// turnInput is more than a turn of the loop in fast reads: two loads of 8 bytes,
// of which at most 7 are used. fastInput is what fast needs to make a turn at all: it loads 8 bytes before.
const (
	turnInput = 32
	fastInput = turnInput + 8
)

const (
	maxDist  = maxCode + 13  // bits of a distance
	copySize = 258 + 16 + 14 // what a copy of a match may touch, less than Slack
)

// fast takes symbols while there is plenty of input and room in out. It leaves
// fewer than 8 bits in z.bits. out[op:] has Slack bytes beyond the block, so
// that the longest match and what a copy writes too much fit.
func (z *Reader) fast() error {
	var (
		in, pos = z.buf[:z.end], z.pos
		out, op = z.out, z.op
		limIn   = z.end - turnInput
		limOut  = len(z.out) - Slack
		bb      = z.bits
		bc      = z.count // only the low 6 bits have a meaning
		err     error
	)
	bb |= le.Uint64(in[pos:]) << (bc & 63)
	pos += int(7 - bc>>3&7)
	bc |= 56
	e := z.lit[bb&(1<<litBits-1)]
	for pos <= limIn && op < limOut {
		// At least 56 bits, and e of the first of them.
		if e&flagLiteral != 0 {
			bb >>= e & 63
			bc -= uint(e)
			out[op] = byte(e >> 16)
			op++
			e = z.lit[bb&(1<<litBits-1)]
			if e&flagLiteral != 0 {
				bb >>= e & 63
				bc -= uint(e)
				out[op] = byte(e >> 16)
				op++
				e = z.lit[bb&(1<<litBits-1)]
				if e&flagLiteral != 0 {
					bb >>= e & 63
					bc -= uint(e)
					out[op] = byte(e >> 16)
					op++
					bb |= le.Uint64(in[pos:]) << (bc & 63)
					pos += int(7 - bc>>3&7)
					bc |= 56
					e = z.lit[bb&(1<<litBits-1)]
					continue
				}
			}
		}
		// At least 34 bits.
		if e&flagOther != 0 {
			if e&flagSub != 0 {
				bb >>= litBits
				bc -= litBits
				e = z.lit[(uint64(e>>16)+bb&(1<<(e>>8&31)-1))&(litSize-1)]
				if e&flagLiteral != 0 {
					bb >>= e & 63
					bc -= uint(e)
					out[op] = byte(e >> 16)
					op++
					bb |= le.Uint64(in[pos:]) << (bc & 63)
					pos += int(7 - bc>>3&7)
					bc |= 56
					e = z.lit[bb&(1<<litBits-1)]
					continue
				}
			}
			if e&flagOther != 0 {
				if e&flagEnd == 0 {
					err = ErrCorrupt
					break
				}
				bb >>= e & 63
				bc -= uint(e)
				z.state = inBlock
				break
			}
		}
		n := int(e>>16) + int(bb&(1<<(e&63)-1)>>(e>>8&31))
		bb >>= e & 63
		bc -= uint(e)

		if bc&63 < maxDist {
			bb |= le.Uint64(in[pos:]) << (bc & 63)
			pos += int(7 - bc>>3&7)
			bc |= 56
		}
		e = z.dist[bb&(1<<distBits-1)]
		if e&flagOther != 0 {
			if e&flagSub == 0 {
				err = ErrCorrupt
				break
			}
			bb >>= distBits
			bc -= distBits
			e = z.dist[(uint64(e>>16)+bb&(1<<(e>>8&31)-1))&(distSize-1)]
			if e&flagOther != 0 {
				err = ErrCorrupt
				break
			}
		}
		dist := int(e>>16) + int(bb&(1<<(e&63)-1)>>(e>>8&31))
		bb >>= e & 63
		bc -= uint(e)
		src := op - dist
		if src < z.first {
			err = ErrCorrupt
			break
		}
		bb |= le.Uint64(in[pos:]) << (bc & 63)
		pos += int(7 - bc>>3&7)
		bc |= 56
		e = z.lit[bb&(1<<litBits-1)]

		to := op
		op += n
		if dist >= 16 {
			// Two copies without a question: most matches are no longer.
			from, to := (*[copySize]byte)(out[src:]), (*[copySize]byte)(out[to:])
			*(*[16]byte)(to[:]) = *(*[16]byte)(from[:])
			*(*[16]byte)(to[16:]) = *(*[16]byte)(from[16:])
			for i := 32; i < n; i += 16 {
				*(*[16]byte)(to[i:]) = *(*[16]byte)(from[i:])
			}
		} else if dist >= 8 {
			from, to := (*[copySize]byte)(out[src:]), (*[copySize]byte)(out[to:])
			for i := 0; i < n; i += 8 {
				*(*[8]byte)(to[i:]) = *(*[8]byte)(from[i:])
			}
		} else if dist == 1 {
			v := uint64(out[src]) * 0x0101010101010101
			to := (*[copySize]byte)(out[to:])
			for i := 0; i < n; i += 8 {
				le.PutUint64(to[i:], v)
			}
		} else {
			for ; to < op; to, src = to+1, src+1 {
				out[to] = out[src]
			}
		}
	}
	// Whole bytes go back to where they came from, so that what follows a
	// block is found byte aligned.
	bc &= 63
	z.pos = pos - int(bc>>3)
	z.count = bc & 7
	z.bits = bb & (1<<z.count - 1)
	z.op = op
	return err
}
