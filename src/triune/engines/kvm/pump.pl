# Runs one command inside a guest for the host, over one virtio-serial port. Only perl-base is needed.
#   perl - /dev/virtio-ports/triune.exec.N TOKEN
# The guest sends TOKEN, the host answers TOKEN; whatever comes before it is stale and dropped. Then frames flow both
# ways: one letter, length (32 bits, big-endian), payload of at most 128 KiB.
#   host:  a arg  e KEY=VALUE  u user  d folder  t "rows columns"  G go
#          I stdin (at most 256 KiB not yet acknowledged)  E end of stdin  W "rows columns"  K signal number
#   guest: S started  O stdout  R stderr  A bytes of stdin consumed  X exit code
# When the host goes away the command's process group gets SIGHUP and, a second later, SIGKILL.
use strict;
use warnings;
use POSIX ();
use Fcntl;

my ($path, $token) = @ARGV;
my ($MAX, $ROOM, $CHUNK) = (131072, 262144, 32768);
my ($TIOCSCTTY, $TIOCSWINSZ, $TIOCSPTLCK, $TIOCGPTN) = (0x540E, 0x5414, 0x40045431, 0x80045430);
$SIG{PIPE} = 'IGNORE';
$SIG{HUP}  = 'IGNORE';
$SIG{CHLD} = sub { };                                         # only to wake select up
POSIX::setsid();

sysopen(my $port, $path, O_RDWR | O_NONBLOCK | O_NOCTTY) or exit 75;    # another session has it: the host tries the next one

my ($inbox, $outbox) = ('', $token);
my %order = (a => [], e => []);
my ($pid, $status, $stdin, $stdin_queue, $stdin_ended) = (0, undef, undef, '', 0);
my %source;                                                   # letter => handle of the command's output
my ($master, $quiet) = (undef, 0);                            # $quiet: how often in a row its output was asked in vain

sub send_frame { my ($kind, $payload) = @_; $outbox .= $kind . pack('N', length $payload) . $payload; }

sub vanish {                                                  # the host is gone
    if ($pid && !defined $status) {
        kill 'HUP', -$pid;
        for (1 .. 20) { last if waitpid($pid, POSIX::WNOHANG()) == $pid; select(undef, undef, undef, 0.05); }
        kill 'KILL', -$pid;
    } elsif ($pid) {
        kill 'HUP', -$pid;
    }
    exit 0;
}

sub nonblocking { my ($handle) = @_; fcntl($handle, F_SETFL, fcntl($handle, F_GETFL, 0) | O_NONBLOCK); }

sub winsize {
    my ($handle, $text) = @_;
    my ($rows, $columns) = split / /, $text;
    my $size = pack('S4', $rows, $columns, 0, 0);
    ioctl($handle, $TIOCSWINSZ, $size);
}

sub account {                                                 # name or number => passwd entry
    my ($user) = @_;
    my @entry = $user =~ /^\d+$/ ? getpwuid($user) : getpwnam($user);
    return @entry if @entry;
    return ($user, '', $user, $user, '', '', '', '/', '/bin/sh') if $user =~ /^\d+$/;
    return;
}

sub refuse { my ($code, $text) = @_; syswrite(STDERR, "triune: $text\n"); POSIX::_exit($code); }

sub become {                                                  # in the child: user, environment, folder, then the command
    my $user = defined $order{u} ? $order{u} : 0;
    my @entry = account($user) or refuse(126, "no user $user in this guest");
    my ($name, $uid, $gid, $home, $shell) = @entry[0, 2, 3, 7, 8];
    %ENV = (PATH => '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
            HOME => $home, USER => $name, LOGNAME => $name, SHELL => $shell || '/bin/sh');
    $ENV{LANG} = 'C.UTF-8';
    for (@{ $order{e} }) { my ($key, $value) = split /=/, $_, 2; $ENV{$key} = $value; }
    if ($uid != 0) {
        my @groups = ($gid, $gid);
        while (my @group = getgrent) { push @groups, $group[2] if grep { $_ eq $name } split / /, $group[3]; }
        $! = 0;
        $) = join ' ', @groups;
        $( = $gid;
        $< = $uid;
        $> = $uid;
        refuse(126, "cannot become $name: $!") if $< != $uid || $> != $uid;
    }
    my $folder = defined $order{d} ? $order{d} : $home;
    chdir($folder) or (defined $order{d} ? refuse(126, "cannot enter $folder: $!") : chdir('/'));
    $SIG{$_} = 'DEFAULT' for qw(PIPE HUP INT QUIT TERM CHLD);
    my @argv = @{ $order{a} };
    if (!@argv) {
        my ($base) = ($ENV{SHELL} =~ m{([^/]+)$});
        exec { $ENV{SHELL} } "-$base" or refuse(127, "$ENV{SHELL}: $!");
    }
    no warnings 'exec';
    exec { $argv[0] } @argv;
    refuse($! == POSIX::ENOENT() ? 127 : 126, "$argv[0]: $!");
}

sub child_on {                                                # in the child: these become 0, 1, 2; nothing else stays open
    my @handles = @_;
    my @numbers = map { fileno $_ } @handles;
    my @high = map { fcntl($handles[$_], F_DUPFD, 10) } 0 .. 2;
    POSIX::dup2($high[$_] + 0, $_) for 0 .. 2;
    POSIX::close($_) for 3 .. 63;
    become();
}

sub start_with_terminal {
    sysopen($master, '/dev/ptmx', O_RDWR | O_NOCTTY) or return "no terminal: $!";
    my $number = pack('i', 0);
    ioctl($master, $TIOCSPTLCK, $number) or return "no terminal: $!";
    ioctl($master, $TIOCGPTN, $number) or return "no terminal: $!";
    my $name = '/dev/pts/' . unpack('i', $number);
    winsize($master, $order{t});
    $pid = fork();
    return "cannot fork: $!" if !defined $pid;
    if (!$pid) {
        POSIX::setsid();
        sysopen(my $slave, $name, O_RDWR) or POSIX::_exit(126);
        ioctl($slave, $TIOCSCTTY, 0);
        child_on($slave, $slave, $slave);
    }
    nonblocking($master);
    ($stdin, %source) = ($master, O => $master);
    return '';
}

sub start_with_pipes {
    pipe(my $child_in, my $to_child);
    pipe(my $from_out, my $child_out);
    pipe(my $from_err, my $child_err);
    $pid = fork();
    return "cannot fork: $!" if !defined $pid;
    if (!$pid) { POSIX::setsid(); child_on($child_in, $child_out, $child_err); }
    nonblocking($_) for $to_child, $from_out, $from_err;
    ($stdin, %source) = ($to_child, O => $from_out, R => $from_err);
    return '';
}

sub go {
    my $trouble = $order{t} ? start_with_terminal() : start_with_pipes();
    if ($trouble) { send_frame('R', "triune: $trouble\n"); send_frame('X', pack('N', 126)); $status = 126; return; }
    send_frame('S', '');
}

sub obey {
    my ($kind, $payload) = @_;
    if    ($kind eq 'I') { if ($stdin) { $stdin_queue .= $payload } else { send_frame('A', pack('N', length $payload)) } }
    elsif ($kind eq 'E') { $stdin_ended = 1; }
    elsif ($kind eq 'W') { winsize($master, $payload) if $master; }
    elsif ($kind eq 'K') { kill $payload + 0, -$pid if $pid && !defined $status; }
    elsif ($kind eq 'G') { go(); }
    elsif ($kind eq 'a' || $kind eq 'e') { push @{ $order{$kind} }, $payload; }
    elsif ($kind =~ /^[udt]$/) { $order{$kind} = $payload; }
    else { vanish(); }
}

my $greeted = 0;

sub receive {
    my $count = sysread($port, $inbox, $CHUNK, length $inbox);
    if (!defined $count) { vanish() if !$!{EAGAIN} && !$!{EINTR}; return; }
    if (!$count) { vanish(); }
    if (!$greeted) {
        my $at = index($inbox, $token);
        if ($at < 0) { $inbox = substr($inbox, -length $token) if length $inbox > length $token; return; }
        substr($inbox, 0, $at + length $token) = '';
        $greeted = 1;
    }
    while (length $inbox >= 5) {
        my ($kind, $size) = unpack('aN', $inbox);
        vanish() if $size > $MAX;
        last if length $inbox < 5 + $size;
        my $payload = substr($inbox, 5, $size);
        substr($inbox, 0, 5 + $size) = '';
        obey($kind, $payload);
    }
}

sub collect {                                                 # output of the command
    my ($letter) = @_;
    my $count = sysread($source{$letter}, my $data, $CHUNK);
    if (!defined $count) { return if $!{EAGAIN} || $!{EINTR}; $count = 0; }    # EIO: a terminal's other side closed
    if (!$count) { delete $source{$letter}; return; }
    $quiet = 0;
    send_frame($letter, $data);
}

sub feed {
    my $count = syswrite($stdin, $stdin_queue);
    if (!defined $count) {
        return if $!{EAGAIN} || $!{EINTR};
        send_frame('A', pack('N', length $stdin_queue));      # nobody reads: swallow it, as a closed pipe does
        ($stdin, $stdin_queue) = (undef, '');
        return;
    }
    substr($stdin_queue, 0, $count) = '';
    send_frame('A', pack('N', $count));
}

sub end_stdin {
    if ($master) { syswrite($master, "\x04"); } else { close $stdin; }
    $stdin = undef;
}

while (1) {
    end_stdin() if $stdin && $stdin_ended && !length $stdin_queue;
    if ($pid && !defined $status && waitpid($pid, POSIX::WNOHANG()) == $pid) {
        $status = ($? & 127) ? 128 + ($? & 127) : $? >> 8;
        $quiet = 0;
    }
    # A command's children may keep its pipes open for ever: a second of silence after its end is enough. What waits
    # there because the host is slow, or because this machine stood still, is no silence.
    my $over = defined $status && $pid && (!%source || $quiet > 20);
    if ($over) { send_frame('X', pack('N', $status)); $pid = 0; %source = (); $stdin = undef; }
    my ($reading, $writing) = ('', '');
    vec($reading, fileno $port, 1) = 1;
    vec($writing, fileno $port, 1) = 1 if length $outbox;
    my $asked = length $outbox < $ROOM;
    if ($asked) { vec($reading, fileno $source{$_}, 1) = 1 for keys %source; }
    vec($writing, fileno $stdin, 1) = 1 if $stdin && length $stdin_queue;
    my $wait = !$pid ? undef : defined $status ? 0.05 : %source ? 1 : 0.02;
    my $ready = select(my $r = $reading, my $w = $writing, undef, $wait);
    $quiet++ if $ready == 0 && $asked;
    next if $ready <= 0;
    receive() if vec($r, fileno $port, 1);
    if (length $outbox && vec($w, fileno $port, 1)) {
        my $count = syswrite($port, $outbox, length $outbox > $CHUNK ? $CHUNK : length $outbox);
        if (defined $count) { substr($outbox, 0, $count) = ''; } elsif (!$!{EAGAIN} && !$!{EINTR}) { vanish(); }
    }
    for my $letter (keys %source) { collect($letter) if vec($r, fileno $source{$letter}, 1); }
    feed() if $stdin && length $stdin_queue && vec($w, fileno $stdin, 1);
}
