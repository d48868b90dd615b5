/* The first process of a stock kernel in the proof of KVM: gets leave to use ports, and says on the isa-debug-exit
 * port (0xf4) that it runs. Made by:
 *   gcc -nostdlib -static -Wl,--build-id=none -Wl,-n -Wl,-z,noseparate-code -s -o stockinit.bin stockinit.S
 */
    .set OK, 0x31
    .globl _start
_start:
    mov $172, %eax              /* iopl(3) */
    mov $3, %edi
    syscall
    mov $OK, %al
    out %al, $0xf4
1:  pause
    jmp 1b
