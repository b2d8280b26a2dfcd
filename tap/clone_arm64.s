#include "textflag.h"

// func cloneHere(flags uintptr) (pid, errno uintptr)
//
// The child goes on with our stack: it returns first, and what it calls then is below
// this function's frame, which is none, as the return address is in a register.
TEXT ·cloneHere(SB),NOSPLIT,$0-24
	MOVD	flags+0(FP), R0
	MOVD	$0, R1 // the child's stack pointer: as it is
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$220, R8 // SYS_CLONE
	SVC
	CMN	$4095, R0
	BCC	ok
	MOVD	ZR, pid+8(FP)
	NEG	R0, R0
	MOVD	R0, errno+16(FP)
	RET
ok:
	MOVD	R0, pid+8(FP)
	MOVD	ZR, errno+16(FP)
	RET
