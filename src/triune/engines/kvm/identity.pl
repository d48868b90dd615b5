# Makes a copy of a machine a machine of its own. Only perl-base is needed.
#   perl - TOKEN ORDER…                                 does so at once (through the guest agent)
#   perl - TOKEN wait=/dev/virtio-ports/triune.exec.N   waits for the line "TOKEN ORDER…" on the port, then answers there
# Orders: hostname=NAME machine_id=HEX was=NAME entropy=HEX time=SECONDS grow=1. The answer is "TOKEN done" or
# "TOKEN failed: …". What takes long (host keys, services that know the old identity) goes on after the answer.
use strict;
use warnings;
use Fcntl;

my ($token, @words) = @ARGV;
my ($RNDADDENTROPY, $RNDRESEEDCRNG) = (0x40085203, 0x5207);
my ($SETHOSTNAME, $CLOCK_SETTIME) = (170, 227);               # x86-64, the one architecture of these machines
my $LIMIT = 65536;

my $port;
if (@words == 1 && $words[0] =~ /^wait=(.+)$/) {
    sysopen($port, $1, O_RDWR | O_NOCTTY) or die "triune: $1: $!\n";
    my $line = '';
    while ($line !~ /^\Q$token\E (.*)$/m || substr($line, -1) ne "\n") {
        my $read = sysread($port, my $data, 4096);
        # Nothing is read while the host is away: from the moment this machine is saved until its copy is spoken to.
        if (!$read) { select(undef, undef, undef, 0.01); next; }
        $line .= $data;
        $line = '' if length $line > $LIMIT;
    }
    $line =~ /^\Q$token\E (.*)$/m;
    @words = split / /, $1;
}
my %order = map { split(/=/, $_, 2) } @words;

sub content {
    my ($path) = @_;
    open(my $file, '<', $path) or return undef;
    local $/;
    my $text = <$file>;
    return $text;
}

sub put {                                                     # in place: the file may be a mount of its own
    my ($path, $text) = @_;
    open(my $file, '>', $path) or die "$path: $!\n";
    print $file $text;
    close($file) or die "$path: $!\n";
}

sub reseed {                                                  # the pool is the original's: without this, so are its keys
    my $entropy = pack('H*', $order{entropy});
    sysopen(my $random, '/dev/urandom', O_RDWR) or die "/dev/urandom: $!\n";
    my $info = pack('ii', 8 * length $entropy, length $entropy) . $entropy;
    ioctl($random, $RNDADDENTROPY, $info) or syswrite($random, $entropy);
    ioctl($random, $RNDRESEEDCRNG, 0);                        # kernels since 4.17
    unlink '/var/lib/systemd/random-seed';
}

sub set_clock {
    my ($seconds, $fraction) = split /\./, $order{time};
    my $spec = pack('qq', $seconds, substr("${fraction}000000000", 0, 9));
    syscall($CLOCK_SETTIME, 0, $spec) == 0 or die "clock_settime: $!\n";
}

sub set_name {
    my $name = $order{hostname};
    my $was = $order{was} || content('/proc/sys/kernel/hostname') || '';
    chomp $was;
    syscall($SETHOSTNAME, "$name", length $name) == 0 or die "sethostname: $!\n";
    put('/etc/hostname', "$name\n") if -s '/etc/hostname';    # else the kernel's command line carries it
    my $hosts = content('/etc/hosts');
    if (defined $hosts && $was ne '' && $was ne 'localhost') {
        put('/etc/hosts', $hosts) if $hosts =~ s/(?<![\w.-])\Q$was\E(?![\w-])/$name/g;
    }
}

my $old_id = content('/etc/machine-id') || '';
chomp $old_id;

sub set_machine_id {
    put('/etc/machine-id', "$order{machine_id}\n");
    my $other = '/var/lib/dbus/machine-id';
    put($other, "$order{machine_id}\n") if -f $other && !-l $other;
    return if $old_id !~ /^[0-9a-f]{32}$/ || $old_id eq $order{machine_id};
    for my $logs ('/var/log/journal', '/run/log/journal') {
        rename("$logs/$old_id", "$logs/$order{machine_id}") if -d "$logs/$old_id";
    }
}

my @keys;                                                     # not by glob: that loads a module
if (opendir(my $folder, '/etc/ssh')) { @keys = map { "/etc/ssh/$_" } grep { /^ssh_host_/ } readdir $folder; }
my $answer = 'done';
eval {
    reseed() if $order{entropy};
    set_clock() if $order{time};
    set_name() if $order{hostname};
    set_machine_id() if $order{machine_id};
    unlink(@keys) == @keys or die "old SSH host keys could not be removed: $!\n" if @keys;
    1;
} or do { $answer = "failed: $@"; $answer =~ s/\n/ /g; };
syswrite($port || *STDOUT, "$token $answer\n");
exit 1 if $answer ne 'done';

# The agent waits for those that hold its pipes.
if (fork() // 0) { exit 0; }
if (open(my $nothing, '+<', '/dev/null')) {
    close $port if $port;
    open(STDIN, '<&', $nothing); open(STDOUT, '>&', $nothing); open(STDERR, '>&', $nothing);
}
$ENV{PATH} = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
my $paused = '/run/triune-paused';                            # services that were stopped before the machine was saved
my @paused = grep { /^[\w@.-]+$/ } split /\s+/, content($paused) || '';
unlink $paused;
if (-d '/etc/ssh' && (@keys || grep { /^sshd?\.service$/ } @paused)) {
    system('ssh-keygen', '-A');
    system('systemctl', '--no-block', 'try-restart', 'ssh.service', 'sshd.service') if !@paused;
}
system('systemctl', '--no-block', 'start', @paused) if @paused;
system('systemctl', '--no-block', 'try-restart', 'systemd-journald.service') if $old_id ne ($order{machine_id} || $old_id);
system('/usr/lib/triune/grow') if $order{grow} && -x '/usr/lib/triune/grow';
