// From the first instruction to ordinary Rust: exception level 1, floating point, translation
// tables, caches, a stack. Ordinary Rust reads and writes unaligned, which memory without
// translation does not allow.
//
// The first core is number 0; the others come here only
// when a loader starts all cores at once, and wait for ever.

.section .text.boot, "ax"
.global _start
_start:
    mrs     x1, mpidr_el1
    and     x1, x1, #0xff
    cbnz    x1, park
    mrs     x20, CurrentEL
    bl      prepare
    // Zeros, in pairs of words: the linker script aligned both ends.
    adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
1:  cmp     x1, x2
    b.hs    2f
    stp     xzr, xzr, [x1], #16
    b       1b
2:  adrp    x1, {main_stack}
    add     x1, x1, :lo12:{main_stack}
    mov     x2, #{main_stack_bytes}
    add     sp, x1, x2
    bl      translate
    bl      guard
    // Where we came from: the way to the firmware depends on it.
    ubfx    x0, x20, #2, #2
    bl      {main}
park:
    wfi
    b       park

// Where the other cores begin, when the first core starts them.
.global start_secondary
start_secondary:
    bl      prepare
    mrs     x1, mpidr_el1
    and     x19, x1, #0xff
    // stacks + number * size is the end of the stack of core `number` (1, 2, ...).
    adrp    x1, {stacks}
    add     x1, x1, :lo12:{stacks}
    mov     x2, #{stack_bytes}
    madd    x1, x19, x2, x1
    mov     sp, x1
    sub     x1, x1, x2
    bl      translate
    bl      guard
    mov     x0, x19
    bl      {secondary_main}
    b       park

// Goes down to exception level 1, if need be, and enables floating point. Keeps x0; spoils x9.
prepare:
    mrs     x9, CurrentEL
    cmp     x9, #(2 << 2)
    b.ne    1f
    // EL1 is 64 bits wide; its timer and counter are its own; nothing is trapped.
    mov     x9, #(1 << 31)
    msr     hcr_el2, x9
    mov     x9, #3
    msr     cnthctl_el2, x9
    msr     cntvoff_el2, xzr
    mov     x9, #0x33ff
    msr     cptr_el2, x9
    msr     hstr_el2, xzr
    // All counters of events, and watchpoints, are those of EL1.
    mrs     x9, pmcr_el0
    ubfx    x9, x9, #11, #5
    msr     mdcr_el2, x9
    // The bits of SCTLR_EL1 that are one; translation, caches and checks off, little endian.
    mov     x9, #0x0800
    movk    x9, #0x30d0, lsl #16
    msr     sctlr_el1, x9
    // EL1 with its own stack pointer, all interrupts masked.
    mov     x9, #0x3c5
    msr     spsr_el2, x9
    adr     x9, 1f
    msr     elr_el2, x9
    eret
1:  msr     daifset, #0xf
    mov     x9, #(3 << 20)
    msr     cpacr_el1, x9
    isb
    ret

// Turns on translation and caches. Spoils x9.
translate:
    adrp    x9, vectors
    add     x9, x9, :lo12:vectors
    msr     vbar_el1, x9
    // Attribute 0: write-back memory. Attribute 1: device memory, in order, acknowledged early.
    mov     x9, #0x04ff
    msr     mair_el1, x9
    // 39 bits, 4 KiB granules, tables in write-back inner-shareable memory, no upper half,
    // 40 bits of physical addresses.
    mov     x9, #0x3519
    movk    x9, #0x0080, lsl #16
    movk    x9, #0x0002, lsl #32
    msr     tcr_el1, x9
    adrp    x9, page_tables
    add     x9, x9, :lo12:page_tables
    msr     ttbr0_el1, x9
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    mrs     x9, sctlr_el1
    // Translation, data cache, instruction cache on; alignment check off.
    mov     x10, #0x1005
    orr     x9, x9, x10
    bic     x9, x9, #2
    msr     sctlr_el1, x9
    isb
    ret

// Makes a store to the lowest bytes of this core's stack, which begins at x1, an exception: there is
// no page to spare for a hole below it. Keeps x0, x20; spoils x9.
guard:
    msr     oslar_el1, xzr
    msr     dbgwvr0_el1, x1
    // Enabled (bit 0), at EL1 (1), for stores (4), all bytes (5 to 12), of 2 to the power of (24 to
    // 28) from there on (Arm ARM, DBGWCR).
    mov     x9, #0x1ff3
    movk    x9, #({guard_bits} << 8), lsl #16
    msr     dbgwcr0_el1, x9
    // Watchpoints count here too, and are no longer masked.
    mrs     x9, mdscr_el1
    orr     x9, x9, #(1 << 13)
    orr     x9, x9, #(1 << 15)
    msr     mdscr_el1, x9
    isb
    msr     daifclr, #8
    ret

// Each of the 16 vectors passes its number; nothing returns.
.macro vector number
    .balign 128
    mov     x0, #\number
    mrs     x1, esr_el1
    mrs     x2, elr_el1
    mrs     x3, far_el1
    b       {exception}
.endm

.balign 2048
vectors:
.irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vector  \number
.endr

.section .data.page_tables, "aw"
