// From QEMU to main, and the power off when it returns: PSCI's SYSTEM_OFF (Arm DEN 0022).
    .section .text.start, "ax"
    .global _start
_start:
    // Vectors are allowed.
    mov     x0, #(3 << 20)
    msr     cpacr_el1, x0
    isb
    ldr     x0, =stack_end
    mov     sp, x0
    ldr     x0, =bss_start
    ldr     x1, =bss_end
1:  cmp     x0, x1
    b.hs    2f
    stp     xzr, xzr, [x0], #16
    b       1b
2:  bl      main
    ldr     w0, =0x84000008
    hvc     #0
3:  wfi
    b       3b
