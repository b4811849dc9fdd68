package inflate

import "encoding/binary"

// fastIn is what one turn of the fast loop may read: two words, the second
// after at most seven bytes of the first.
const fastIn = 16

// codes decodes a block's symbols until its end or until the window is full.
func (r *Reader) codes() error {
	for r.window.end < windowFull {
		if r.end-r.pos < fastIn {
			r.fill()
		}
		var ended bool
		var err error
		if r.end-r.pos >= fastIn {
			ended, err = r.fast()
		} else {
			ended, err = r.careful()
		}
		if err != nil {
			return err
		}
		if ended {
			r.state = atBlock
			return nil
		}
	}
	return nil
}

// fast decodes while there is input for a whole turn and room in the window.
//
// Inside the loop, count is a lower bound: bits above it are those of the bytes
// from pos on, and reading these again changes nothing.
func (r *Reader) fast() (ended bool, err error) {
	in := r.buf[:r.end]
	out := r.window.buf
	pos, end, low := r.pos, r.window.end, r.window.low
	bits, count := r.bits, r.count
	lit, dist := &r.lit, &r.dist
	last := len(in) - fastIn
	why := ""
	for pos <= last && end < windowFull {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
		pos += int((63 - count) >> 3)
		count |= 56 // now at least that

		// Four look-ups take at most 44 bits. The last may be a length of 20.
		e := lit[bits&(1<<litMain-1)]
		if e&isLiteral != 0 {
			bits >>= e & 63
			count -= uint(e & 63)
			binary.LittleEndian.PutUint16(out[end:], uint16(e>>8))
			end += int(e >> 24 & 3)
			e = lit[bits&(1<<litMain-1)]
			if e&isLiteral != 0 {
				bits >>= e & 63
				count -= uint(e & 63)
				binary.LittleEndian.PutUint16(out[end:], uint16(e>>8))
				end += int(e >> 24 & 3)
				e = lit[bits&(1<<litMain-1)]
				if e&isLiteral != 0 {
					bits >>= e & 63
					count -= uint(e & 63)
					binary.LittleEndian.PutUint16(out[end:], uint16(e>>8))
					end += int(e >> 24 & 3)
					e = lit[bits&(1<<litMain-1)]
					if e&isLiteral != 0 {
						bits >>= e & 63
						count -= uint(e & 63)
						binary.LittleEndian.PutUint16(out[end:], uint16(e>>8))
						end += int(e >> 24 & 3)
						continue
					}
				}
			}
		}
		if e&(isLink|isEnd) != 0 {
			if e&isLink != 0 {
				bits >>= litMain
				count -= litMain
				e = lit[(uint64(e>>8&0xffff)+bits&(1<<(e&63)-1))&(litSize-1)]
				if e&isLiteral != 0 {
					bits >>= e & 63
					count -= uint(e & 63)
					out[end] = byte(e >> 8)
					end++
					continue
				}
			}
			if e&isEnd != 0 {
				bits >>= e & 63
				count -= uint(e & 63)
				ended = true
				break
			}
		}
		if e == 0 {
			why = "no code begins with these bits"
			break
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&31))
		bits >>= e & 63
		count -= uint(e & 63)

		// A distance takes up to 28.
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
		pos += int((63 - count) >> 3)
		count |= 56
		e = dist[bits&(1<<distMain-1)]
		if e&isLink != 0 {
			bits >>= distMain
			count -= distMain
			e = dist[(uint64(e>>8&0xffff)+bits&(1<<(e&63)-1))&(distSize-1)]
		}
		if e == 0 {
			why = "no code begins with these bits"
			break
		}
		distance := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&31))
		bits >>= e & 63
		count -= uint(e & 63)
		from := end - distance
		if from < low {
			why = "a distance reaches before the beginning"
			break
		}
		switch {
		case distance >= 16:
			// What is written too far is overwritten.
			s, t := out[from:from+length+32], out[end:end+length+32]
			for {
				a, b := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint64(s[8:])
				binary.LittleEndian.PutUint64(t, a)
				binary.LittleEndian.PutUint64(t[8:], b)
				if len(s) <= 32+16 {
					break
				}
				s, t = s[16:], t[16:]
			}
		case distance == 1:
			v := uint64(out[from]) * 0x0101010101010101
			t := out[end : end+length+8]
			for len(t) > 8 {
				binary.LittleEndian.PutUint64(t, v)
				t = t[8:]
			}
		case distance >= 8:
			s, t := out[from:from+length+8], out[end:end+length+8]
			for len(s) > 8 && len(t) > 8 {
				binary.LittleEndian.PutUint64(t, binary.LittleEndian.Uint64(s))
				s, t = s[8:], t[8:]
			}
		default:
			s, t := out[from:from+length], out[end:end+length]
			for i := range t {
				t[i] = s[i]
			}
		}
		end += length
	}
	r.window.end = end
	r.pos = pos - int(count>>3)
	r.count = count & 7
	r.bits = bits & (1<<r.count - 1)
	if why != "" {
		err = r.broken(why)
	}
	return ended, err
}
