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
	ja	1f
	bt	r11, rdi
	jnc	1f
	push	rsi
	call	moved
	pop	rsi
	test	eax, eax
	jnz	2f
	mov	[rsi], r8
	mov	[rsi+8], r9
	ret
1:	mov	eax, 228	# SYS_clock_gettime
	syscall
2:	ret

# int gettimeofday(struct timeval *rdi, struct timezone *rsi)
gettimeofday:
	call	settings
	test	r11b, 1
	jz	3f
	push	rdi
	test	rsi, rsi
	jz	1f
	xor	edi, edi
	mov	eax, 96		# SYS_gettimeofday, for the time zone only
	syscall
	test	eax, eax
	jnz	2f
1:	cmp	qword ptr [rsp], 0
	je	4f
	xor	edi, edi	# CLOCK_REALTIME
	call	moved
	test	eax, eax
	jnz	2f
	mov	rax, r9
	xor	edx, edx
	mov	ecx, 1000
	div	rcx
	pop	rdi
	mov	[rdi], r8
	mov	[rdi+8], rax
	xor	eax, eax
	ret
4:	xor	eax, eax
2:	pop	rdi
	ret
3:	mov	eax, 96		# SYS_gettimeofday
	syscall
	ret

# time_t time(time_t *rdi)
time:
	call	settings
	test	r11b, 1
	jz	2f
	push	rdi
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
2:	mov	eax, 201	# SYS_time
	syscall
	ret

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

# edi clock, r8 jump, r9 since, r10 drift → eax 0 or error, r8 seconds, r9 nanoseconds;
# rcx, rdx, rsi, rdi, r11 are lost
moved:
	sub	rsp, 24
	mov	[rsp+16], rdi
	mov	rsi, rsp
	test	r10, r10
	jz	1f
	mov	edi, 1		# CLOCK_MONOTONIC
	mov	eax, 228	# SYS_clock_gettime
	syscall
	test	eax, eax
	jnz	4f
	imul	rax, [rsp], 1000000000
	add	rax, [rsp+8]
	sub	rax, r9
	imul	r10		# rdx:rax = elapsed · drift · 2^48
	shrd	rax, rdx, 48
	add	r8, rax
	mov	rdi, [rsp+16]
1:	mov	eax, 228	# SYS_clock_gettime
	syscall
	test	eax, eax
	jnz	4f
	mov	rax, r8
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
4:	add	rsp, 24
	ret
