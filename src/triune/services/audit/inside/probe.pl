# Tries, from inside an instance, what an attacker would try first. Each step is a process of its own, stops at the
# first system call that tells, and takes back what it made. One line a step: NAME, a tab, the errno (0: it worked,
# -1: there is nothing here to try it on).
use strict;
use POSIX ();
$| = 1;
alarm 20;
my ($kernel, $machine) = (POSIX::uname())[0, 4];
my %numbers = (
    x86_64  => { mount => 165, umount => 166, ptrace => 101, keyctl => 250, module => 313, mknod => 259,
                 unshare => 272, handle => 304 },
    aarch64 => { mount => 40, umount => 39, ptrace => 117, keyctl => 219, module => 273, mknod => 33,
                 unshare => 97, handle => 265 },
);
my $n = $numbers{$machine} or do { print "unknown\t$machine\n"; exit 3 };
print "user\t$>\n";
my $place = place();
sub done { POSIX::_exit(0) }
sub told { my ($result) = @_; return $result == -1 ? $! + 0 : 0 }
sub writable { my ($path) = @_; return sysopen(my $file, $path, POSIX::O_WRONLY()) ? 0 : $! + 0 }
sub place {
    for my $folder ("/tmp", "/run", "/var/tmp", "/dev/shm") {
        my $path = "$folder/.triune-probe-$$";
        return $path if mkdir $path, 0700;
    }
    return "";
}
sub step {
    my ($name, $try) = @_;
    my $child = fork();
    return print "$name\t-2\n" unless defined $child;
    if (!$child) { my $result = $try->(); syswrite STDOUT, "$name\t$result\n"; done() }
    waitpid $child, 0;
}
sub mounted {
    my ($kind, $options, $then) = @_;
    return -1 unless $place;
    my $result = told(syscall($n->{mount}, my $none = "none", my $where = $place, my $type = $kind, 0, my $data = $options));
    return $result if $result;
    $result = $then->();
    syscall($n->{umount}, $place, 2);
    return $result;
}
sub release_agent {
    my $last = -1;
    for my $path (glob("/sys/fs/cgroup/release_agent"), glob("/sys/fs/cgroup/*/release_agent")) {
        next unless -e $path;
        $last = writable($path);
        return 0 if $last == 0;
    }
    open(my $file, "<", "/proc/cgroups") or return $last;
    for (<$file>) {
        my ($name, $hierarchy) = split;
        next if /^#/ or !$hierarchy;
        my $result = mounted("cgroup", $name, sub { writable("$place/release_agent") });
        return 0 if $result == 0;
        $last = $result if $result == 1 or $result == 13 or $last == -1;
    }
    return $last == 2 ? -1 : $last;
}
sub disk {
    open(my $file, "<", "/proc/partitions") or return -1;
    my $last = -1;
    for (<$file>) {
        my ($major, $minor, undef, $name) = split;
        next unless defined $name and $name =~ /^(?:[svx]d[a-z]+|nvme\d+n\d+|mmcblk\d+)$/;
        return 0 if sysopen(my $device, "/dev/$name", POSIX::O_RDONLY() | POSIX::O_NONBLOCK());
        return $last unless $place;
        my $path = "$place/disk";
        $last = told(syscall($n->{mknod}, -100, $path, 0060600, $major * 256 + $minor));
        next if $last;
        $last = sysopen(my $device, $path, POSIX::O_RDONLY() | POSIX::O_NONBLOCK()) ? 0 : $! + 0;
        unlink $path;
        return 0 if $last == 0;
    }
    return $last;
}
step("mount", sub { mounted("tmpfs", "", sub { 0 }) });
step("ptrace", sub { told(syscall($n->{ptrace}, 0, 0, 0, 0)) });
step("keyctl", sub { told(syscall($n->{keyctl}, 0, -3, 0)) });
step("module", sub { my $result = told(syscall($n->{module}, -1, my $nothing = "", 0)); $result == 9 ? 0 : $result });
step("raw-socket", sub { socket(my $socket, 2, 3, 1) ? 0 : $! + 0 });
step("packet-socket", sub { socket(my $socket, 17, 3, 768) ? 0 : $! + 0 });
step("sysrq", sub { -e "/proc/sysrq-trigger" ? writable("/proc/sysrq-trigger") : -1 });
step("release-agent", \&release_agent);
step("mknod", sub {
    return -1 unless $place;
    my $result = told(syscall($n->{mknod}, -100, my $path = "$place/null", 0020600, 259));
    unlink "$place/null";
    return $result;
});
step("disk", \&disk);
step("handle", sub {
    my $bogus = pack("Iia8", 8, 1, "\0" x 8);
    my $result = told(syscall($n->{handle}, -100, $bogus, 0));
    $result == 116 || $result == 95 || $result == 20 ? 0 : $result;
});
step("unshare-user", sub { told(syscall($n->{unshare}, 0x10000000)) });
step("unshare-mount", sub { told(syscall($n->{unshare}, 0x00020000)) });
rmdir $place if $place;
print "end\t0\n";
