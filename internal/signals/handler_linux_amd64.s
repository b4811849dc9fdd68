#include "textflag.h"

// func code() (handler, back uintptr)
TEXT ·code(SB),NOSPLIT,$0-16
	LEAQ ·handle(SB), AX
	MOVQ AX, handler+0(FP)
	LEAQ ·back(SB), AX
	MOVQ AX, back+8(FP)
	RET

// The handler: write(writeEnd, &signal, 1). The kernel calls it as C, the signal in
// DI, and restores every register afterwards; no Go state is touched. A full
// pipe loses the signal.
TEXT ·handle(SB),NOSPLIT|NOFRAME,$0
	SUBQ $16, SP
	MOVB DI, 0(SP)
	MOVL ·writeEnd(SB), DI
	MOVQ SP, SI
	MOVL $1, DX
	MOVL $1, AX               // write
	SYSCALL
	ADDQ $16, SP
	RET

// What the handler returns to.
TEXT ·back(SB),NOSPLIT|NOFRAME,$0
	MOVL $15, AX              // rt_sigreturn
	SYSCALL
	INT $3
