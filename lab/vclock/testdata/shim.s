# The source of shimCode in shim.go: as -o shim.o shim.s; objcopy -O binary -j .text shim.o shim.bin
	.intel_syntax noprefix
	.text
data:
	.quad	0		# 0x00 mark
	.quad	0		# 0x08 id of the clock
	.quad	0		# 0x10 generation
	.quad	0		# 0x18
	.quad	0, 0, 0, 0	# 0x20 settings of even generations: jump, since, drift, mask
	.quad	0, 0, 0, 0	# 0x40 settings of odd generations
	.skip	32

# int clock_gettime(clockid_t edi, struct timespec *rsi)
gettime:
	call	settings
	cmp	edi, 63
	ja	clock
	bt	r11, rdi
	jnc	clock
	push	rsi
	call	moved
	pop	rsi
	test	eax, eax
	jnz	1f
	mov	[rsi], r8
	mov	[rsi+8], r9
1:	ret

# int gettimeofday(struct timeval *rdi, struct timezone *rsi)
gettimeofday:
	push	rdi
	test	rsi, rsi
	jz	1f
	xor	edi, edi
	mov	eax, 96		# SYS_gettimeofday, for the time zone only
	syscall
	test	eax, eax
	jnz	3f
1:	cmp	qword ptr [rsp], 0
	je	2f
	call	settings
	xor	edi, edi	# CLOCK_REALTIME
	call	moved
	test	eax, eax
	jnz	3f
	mov	eax, r9d
	xor	edx, edx
	mov	ecx, 1000
	div	ecx
	mov	rdi, [rsp]
	mov	[rdi], r8
	mov	[rdi+8], rax
2:	xor	eax, eax
3:	pop	rdi
	ret

# time_t time(time_t *rdi)
time:
	push	rdi
	call	settings
	mov	edi, 5		# CLOCK_REALTIME_COARSE: what time(2) reads
	call	moved
	pop	rdi
	cdqe
	test	eax, eax
	jnz	1f
	mov	rax, r8
	test	rdi, rdi
	jz	1f
	mov	[rdi], rax
1:	ret

# r8 jump, r9 since, r10 drift, r11 mask; rax, rcx, rdx are lost
settings:
	lea	rcx, [rip+data]
1:	mov	rax, [rcx+0x10]
	mov	edx, eax
	and	edx, 1
	shl	edx, 5
	mov	r8, [rcx+rdx+0x20]
	mov	r9, [rcx+rdx+0x28]
	mov	r10, [rcx+rdx+0x30]
	mov	r11, [rcx+rdx+0x38]
	cmp	rax, [rcx+0x10]
	jne	1b
	ret

# edi clock, r8 jump, r9 since, r10 drift: eax 0 or error, r8 seconds, r9 nanoseconds;
# rcx, rdx, rsi, rdi, r10, r11 are lost
moved:
	sub	rsp, 56
	mov	[rsp+16], r8
	test	r10, r10
	jz	1f
	mov	[rsp+24], rdi
	mov	[rsp+32], r9
	mov	[rsp+40], r10
	mov	edi, 1		# CLOCK_MONOTONIC
	mov	rsi, rsp
	call	clock
	test	eax, eax
	jnz	4f
	imul	rax, [rsp], 1000000000
	add	rax, [rsp+8]
	sub	rax, [rsp+32]
	imul	qword ptr [rsp+40]	# rdx:rax = elapsed * drift * 2^48
	shrd	rax, rdx, 48
	add	[rsp+16], rax
	mov	rdi, [rsp+24]
1:	mov	rsi, rsp
	call	clock
	test	eax, eax
	jnz	4f
	mov	rax, [rsp+16]
	cqo
	mov	ecx, 1000000000
	idiv	rcx
	mov	r8, [rsp]
	add	r8, rax
	mov	r9, [rsp+8]
	add	r9, rdx
	jns	2f
	add	r9, rcx
	dec	r8
	jmp	3f
2:	cmp	r9, rcx
	jl	3f
	sub	r9, rcx
	inc	r8
3:	xor	eax, eax
4:	add	rsp, 56
	ret

# int clock_gettime(clockid_t edi, struct timespec *rsi), unmoved: what the shim
# replaced, as far as it is moved here to make room for the jump, and a jump to the
# rest of it; where its beginning cannot be moved, this.
clock:
	mov	eax, 228	# SYS_clock_gettime
	syscall
	ret
	.skip	40, 0xcc
