// The five functions that compiled code expects of every platform. Memory is normal: unaligned
// access is allowed.

.section .text.memory, "ax"

// memcpy(x0 to, x1 from, x2 bytes) -> x0; memmove likewise, when they may overlap.
.global memmove
.type memmove, %function
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.lo    copy_down
.global memcpy
.type memcpy, %function
memcpy:
    mov     x3, x0
    subs    x2, x2, #64
    b.lo    2f
1:  ldp     q0, q1, [x1]
    ldp     q2, q3, [x1, #32]
    add     x1, x1, #64
    subs    x2, x2, #64
    stp     q0, q1, [x3]
    stp     q2, q3, [x3, #32]
    add     x3, x3, #64
    b.hs    1b
2:  adds    x2, x2, #48
    b.lt    4f
3:  ldr     q0, [x1], #16
    subs    x2, x2, #16
    str     q0, [x3], #16
    b.ge    3b
4:  adds    x2, x2, #16
    b.eq    6f
5:  ldrb    w4, [x1], #1
    subs    x2, x2, #1
    strb    w4, [x3], #1
    b.ne    5b
6:  ret

// The target begins within the source: from the end.
copy_down:
    add     x1, x1, x2
    add     x3, x0, x2
    subs    x2, x2, #16
    b.lt    2f
1:  ldr     q0, [x1, #-16]!
    subs    x2, x2, #16
    str     q0, [x3, #-16]!
    b.ge    1b
2:  adds    x2, x2, #16
    b.eq    4f
3:  ldrb    w4, [x1, #-1]!
    subs    x2, x2, #1
    strb    w4, [x3, #-1]!
    b.ne    3b
4:  ret

// memset(x0 to, w1 byte, x2 bytes) -> x0
.global memset
.type memset, %function
memset:
    mov     x3, x0
    dup     v0.16b, w1
    subs    x2, x2, #32
    b.lo    2f
1:  subs    x2, x2, #32
    stp     q0, q0, [x3], #32
    b.hs    1b
2:  adds    x2, x2, #32
    b.eq    4f
3:  subs    x2, x2, #1
    strb    w1, [x3], #1
    b.ne    3b
4:  ret

// memcmp(x0 a, x1 b, x2 bytes) -> w0; bcmp likewise.
.global memcmp
.type memcmp, %function
.global bcmp
.type bcmp, %function
memcmp:
bcmp:
    subs    x2, x2, #8
    b.lo    2f
1:  ldr     x3, [x0]
    ldr     x4, [x1]
    cmp     x3, x4
    b.ne    2f
    add     x0, x0, #8
    add     x1, x1, #8
    subs    x2, x2, #8
    b.hs    1b
2:  add     x2, x2, #8
3:  cbz     x2, 4f
    ldrb    w3, [x0], #1
    ldrb    w4, [x1], #1
    sub     x2, x2, #1
    subs    w3, w3, w4
    b.eq    3b
    mov     w0, w3
    ret
4:  mov     w0, #0
    ret
