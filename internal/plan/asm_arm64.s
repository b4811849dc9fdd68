#include "textflag.h"

// func cloneRun(args *cloneArgs, size uintptr, h *header) (pid uintptr)
//
// See asm_amd64.s for the layout and the rules. R19 header, R20 op, R21 count,
// R22 registers, R23 index; SVC clobbers R0 only. R18, R27 and R28 are left
// alone (platform, assembler, g).
TEXT ·cloneRun(SB),NOSPLIT|NOFRAME,$0-32
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD h+16(FP), R19
	MOVD $435, R8             // clone3
	SVC
	CBZ  R0, child
	MOVD R0, pid+24(FP)
	RET

child:
	MOVD 0(R19), R20
	MOVD 8(R19), R21
	MOVD 16(R19), R22
	MOVD ZR, R23

loop:
	CMP  R21, R23
	BHS  done

	MOVD 64(R20), R9          // cond
	CBZ  R9, run
	LSR  $2, R9, R10
	MOVD (R22)(R10<<3), R10
	TBZ  $0, R9, unless
	TBNZ $63, R10, next
	B    run

unless:
	TBZ  $63, R10, next

run:
	MOVD 56(R20), R9          // regs
	MOVD 8(R20), R0
	TBZ  $0, R9, a1
	MOVD (R22)(R0<<3), R0
a1:
	MOVD 16(R20), R1
	TBZ  $1, R9, a2
	MOVD (R22)(R1<<3), R1
a2:
	MOVD 24(R20), R2
	TBZ  $2, R9, a3
	MOVD (R22)(R2<<3), R2
a3:
	MOVD 32(R20), R3
	TBZ  $3, R9, a4
	MOVD (R22)(R3<<3), R3
a4:
	MOVD 40(R20), R4
	TBZ  $4, R9, a5
	MOVD (R22)(R4<<3), R4
a5:
	MOVD 48(R20), R5
	TBZ  $5, R9, a6
	MOVD (R22)(R5<<3), R5
a6:
	MOVD 0(R20), R8
	TBNZ $32, R8, special
	SVC
	CMN  $4095, R0            // unsigned >= -4095 is an errno
	BHS  failed
	MOVD 104(R20), R9         // zero
	CBZ  R9, keep
	CBZ  R0, keep
	NEG  R9, R0

failed:
	NEG  R0, R9               // errno
	MOVD 0(R20), R10
	CMP  $4, R9               // EINTR, but of close: once more, see Plan.Call
	BNE  busy
	CMP  $57, R10
	BNE  run
busy:
	CMP  $11, R9              // EAGAIN of openat2: once more too
	BNE  settled
	CMP  $437, R10
	BEQ  run

settled:
	LSR  $6, R9, R10
	CMP  $3, R10
	BHS  fatal
	ADD  $72, R20, R11
	MOVD (R11)(R10<<3), R11
	LSR  R9, R11, R11         // LSRV takes the amount modulo 64
	TBZ  $0, R11, fatal

keep:
	MOVD 96(R20), R9
	MOVD R0, (R22)(R9<<3)

next:
	ADD  $112, R20
	ADD  $1, R23
	B    loop

special:
	MOVD R0, R24
	TBNZ $0, R8, signal
	TBZ  $1, R8, wait
	MOVD R24, R19             // go on with the plan whose header this is
	B    child

wait:
	LDARW (R24), R9
	CBNZW R9, next
	MOVD R24, R0
	MOVD ZR, R1               // FUTEX_WAIT
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD $98, R8              // futex
	SVC
	B    wait

signal:
	MOVD $1, R9
	STLRW R9, (R24)
	MOVD R24, R0
	MOVD $1, R1               // FUTEX_WAKE
	MOVD $0x7fffffff, R2
	MOVD $98, R8
	SVC
	B    next

fatal:
	MOVD R23, 24(R19)
	ADD  $32, R19, R10
	STLR R9, (R10)            // errno last: the parent looks at it

done:
	MOVD $126, R0
	MOVD $94, R8              // exit_group
	SVC
	BRK
