/* A guest of a few hundred bytes that proves a virtual CPU: enters long mode with paging, touches memory through
 * a second mapping, takes 16 interrupts of the 8254 timer, and says so on the isa-debug-exit port (0xf4). */
    .set OK, 0x31
    .section .text
    .code32
    .align 4
multiboot:                      /* Multiboot 1 header with addresses ("a.out kludge"): a flat file suffices */
    .long 0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000)
    .long multiboot, 0x100000, image_end, bss_end, start
    .globl start
start:
    cli
    mov $stack_top, %esp
    mov $pml4, %edi             /* identity-map the first GiB with 2 MiB pages, and once more at 1 GiB */
    mov $(0x4000 / 4), %ecx
    xor %eax, %eax
    rep stosl
    movl $(pdpt + 3), pml4
    movl $(pd + 3), pdpt
    movl $(pd + 3), pdpt + 8
    mov $pd, %edi
    mov $0x83, %eax
    mov $512, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax              /* PAE */
    mov %eax, %cr4
    mov $0xC0000080, %ecx       /* EFER.LME */
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax
    mov %eax, %cr0
    lgdt gdtr
    ljmp $8, $long_mode
    .code64
long_mode:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack_top, %rsp
    movq $0x5452495554524955, %rax  /* write through one mapping, read through the other */
    mov %rax, scratch
    mov $scratch, %rbx
    add $0x40000000, %rbx
    cmp %rax, (%rbx)
    jne fail
    mov $idt, %rdi              /* every vector leads to `fail`, 0x20 to `tick` */
    mov $256, %ecx
    mov $fail, %rax
2:  call gate
    loop 2b
    mov $(idt + 0x20 * 16), %rdi
    mov $tick, %rax
    call gate
    lidt idtr
    mov $0x11, %al              /* 8259: vectors 0x20 on, only the timer unmasked */
    out %al, $0x20
    mov $0x20, %al
    out %al, $0x21
    mov $4, %al
    out %al, $0x21
    mov $1, %al
    out %al, $0x21
    mov $0xfe, %al
    out %al, $0x21
    mov $0xff, %al
    out %al, $0xa1
    mov $0x34, %al              /* 8254 channel 0, rate generator, about 1 kHz */
    out %al, $0x43
    mov $0xa9, %al
    out %al, $0x40
    mov $4, %al
    out %al, $0x40
    sti
3:  hlt
    cmpl $16, ticks
    jb 3b
    mov $OK, %al
    jmp leave
tick:
    push %rax
    incl ticks
    mov $0x20, %al
    out %al, $0x20
    pop %rax
    iretq
gate:                           /* an interrupt gate at rdi for the handler in rax; advances rdi */
    mov %rax, %rdx
    movw %dx, (%rdi)
    movw $8, 2(%rdi)
    movw $0x8E00, 4(%rdi)
    shr $16, %rdx
    movw %dx, 6(%rdi)
    movq $0, 8(%rdi)
    add $16, %rdi
    ret
fail:
    mov $1, %al
leave:
    out %al, $0xf4
4:  hlt
    jmp 4b
    .align 8
gdt: .quad 0, 0x00AF9A000000FFFF, 0x00AF92000000FFFF
gdtr: .word 23
    .long gdt, 0
idtr: .word 4095
    .quad idt
image_end:
    .section .bss
    .align 4096
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4096
spare: .skip 4096
idt: .skip 4096
    .skip 4096
stack_top:
scratch: .skip 8
ticks: .skip 4
bss_end:
