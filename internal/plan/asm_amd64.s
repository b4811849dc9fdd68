#include "textflag.h"

// func cloneRun(args *cloneArgs, size uintptr, h *header) (pid uintptr)
//
// clone3(2), and in the child the loop over the plan. The child has its own
// stack and never returns; it calls nothing and touches no Go state, so the
// missing g and the foreign stack do not matter.
//
// header: 0 ops, 8 count, 16 registers, 24 failed index, 32 errno.
// op: 0 nr, 8..48 args, 56 regs, 64 cond, 72..88 ignore, 96 out, 104 zero; 112 bytes.
//
// R15 header, BX op, R12 count, R13 registers, R14 index. SYSCALL clobbers
// AX, CX and R11 only.
TEXT ·cloneRun(SB),NOSPLIT|NOFRAME,$0-32
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ h+16(FP), R15
	MOVL $435, AX             // clone3
	SYSCALL
	TESTQ AX, AX
	JZ   child
	MOVQ AX, pid+24(FP)
	RET

child:
	MOVQ 0(R15), BX
	MOVQ 8(R15), R12
	MOVQ 16(R15), R13
	XORL R14, R14

loop:
	CMPQ R14, R12
	JAE  done

	// cond: leave the operation out by the sign of a register.
	MOVQ 64(BX), CX
	TESTQ CX, CX
	JZ   run
	MOVQ CX, AX
	SHRQ $2, AX
	MOVQ (R13)(AX*8), AX
	TESTQ $1, CX
	JZ   unless
	TESTQ AX, AX
	JS   next
	JMP  run

unless:
	TESTQ AX, AX
	JNS  next

run:
	MOVQ 56(BX), CX
	MOVQ 8(BX), DI
	TESTQ $1, CX
	JZ   a1
	MOVQ (R13)(DI*8), DI
a1:
	MOVQ 16(BX), SI
	TESTQ $2, CX
	JZ   a2
	MOVQ (R13)(SI*8), SI
a2:
	MOVQ 24(BX), DX
	TESTQ $4, CX
	JZ   a3
	MOVQ (R13)(DX*8), DX
a3:
	MOVQ 32(BX), R10
	TESTQ $8, CX
	JZ   a4
	MOVQ (R13)(R10*8), R10
a4:
	MOVQ 40(BX), R8
	TESTQ $16, CX
	JZ   a5
	MOVQ (R13)(R8*8), R8
a5:
	MOVQ 48(BX), R9
	TESTQ $32, CX
	JZ   a6
	MOVQ (R13)(R9*8), R9
a6:
	MOVQ 0(BX), AX
	BTQ  $32, AX
	JCS  special
	SYSCALL
	CMPQ AX, $0xfffffffffffff001
	JCC  failed
	MOVQ 104(BX), CX          // zero: any other result is a failure
	TESTQ CX, CX
	JZ   keep
	TESTQ AX, AX
	JZ   keep
	MOVQ CX, AX
	NEGQ AX

failed:
	MOVQ AX, CX
	NEGQ CX                   // errno
	CMPQ CX, $4               // EINTR, but of close: once more, see Plan.Call
	JNE  busy
	CMPQ 0(BX), $3
	JNE  run
busy:
	CMPQ CX, $11              // EAGAIN of openat2: once more too
	JNE  settled
	CMPQ 0(BX), $437
	JEQ  run

settled:
	MOVQ CX, SI
	SHRQ $6, SI
	CMPQ SI, $3
	JAE  fatal
	MOVQ 72(BX)(SI*8), DX
	BTQ  CX, DX               // the register form takes CX modulo 64
	JCC  fatal

keep:
	MOVQ 96(BX), CX
	MOVQ AX, (R13)(CX*8)

next:
	ADDQ $112, BX
	INCQ R14
	JMP  loop

special:                          // 1<<32 waits, +1 signals, DI is the word; +2 goes on, DI is a header
	TESTL $1, AX
	JNZ  signal
	TESTL $2, AX
	JZ   wait
	MOVQ DI, R15
	JMP  child

wait:
	MOVL (DI), AX
	TESTL AX, AX
	JNZ  next
	XORL SI, SI               // FUTEX_WAIT
	XORL DX, DX               // while the word is 0
	XORL R10, R10
	MOVL $202, AX             // futex
	SYSCALL
	JMP  wait

signal:
	MOVL $1, AX
	XCHGL AX, (DI)
	MOVL $1, SI               // FUTEX_WAKE
	MOVL $0x7fffffff, DX
	MOVL $202, AX
	SYSCALL
	JMP  next

fatal:
	MOVQ R14, 24(R15)
	MOVQ CX, 32(R15)          // errno last: the parent looks at it

done:
	MOVL $126, DI
	MOVL $231, AX             // exit_group
	SYSCALL
	INT  $3
