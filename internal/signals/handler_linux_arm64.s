#include "textflag.h"

// func code() (handler, back uintptr)
TEXT ·code(SB),NOSPLIT,$0-16
	MOVD $·handle(SB), R0
	MOVD R0, handler+0(FP)
	MOVD $·back(SB), R0
	MOVD R0, back+8(FP)
	RET

// The handler: write(writeEnd, &signal, 1). The kernel calls it as C, the signal in
// R0 and back in LR, and restores every register afterwards; no Go state is
// touched. A full pipe loses the signal.
TEXT ·handle(SB),NOSPLIT|NOFRAME,$0
	SUB  $16, RSP
	MOVB R0, 8(RSP)
	MOVW ·writeEnd(SB), R0
	ADD  $8, RSP, R1
	MOVD $1, R2
	MOVD $64, R8              // write
	SVC
	ADD  $16, RSP
	RET

// What the handler returns to.
TEXT ·back(SB),NOSPLIT|NOFRAME,$0
	MOVD $139, R8             // rt_sigreturn
	SVC
	BRK
