//! The few calls to the kernel that the standard library does not have. Declared by hand: a library for them would be larger than the shim.
//! Layouts are those of 64-bit Linux.

use std::{
    ffi::{c_int, c_long, c_short, c_uint, c_ulong, c_void},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    os::unix::net::UnixStream,
};

unsafe extern "C" {
    fn setsid() -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn umask(mask: c_uint) -> c_uint;
    fn prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int;
    fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn poll(fds: *mut Poll, count: c_ulong, timeout: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn waitid(kind: c_int, id: c_uint, told: *mut c_void, options: c_int) -> c_int;
    fn fork() -> c_int;
    fn _exit(code: c_int) -> !;
    fn syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long) -> c_long;
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int;
    fn recvmsg(fd: c_int, message: *mut Message, flags: c_int) -> isize;
}

// These have the same number on every 64-bit architecture.
const PIDFD_SEND_SIGNAL: c_long = 424;
const PIDFD_OPEN: c_long = 434;
const CLOSE_RANGE: c_long = 436;
const PIDFD_GETFD: c_long = 438;

/// One descriptor to wait for.
#[repr(C)]
pub struct Poll {
    fd: c_int,
    events: c_short,
    happened: c_short,
}

impl Poll {
    /// Waits until there is something to read.
    pub fn read(fd: &impl AsRawFd) -> Self {
        Self { fd: fd.as_raw_fd(), events: 1, happened: 0 }
    }
    /// Waits until something can be written.
    pub fn write(fd: &impl AsRawFd) -> Self {
        Self { fd: fd.as_raw_fd(), events: 4, happened: 0 }
    }
    /// Waits for either.
    pub fn both(fd: &impl AsRawFd) -> Self {
        Self { fd: fd.as_raw_fd(), events: 1 | 4, happened: 0 }
    }
    /// Waits for nothing, and stands for something in its place.
    pub fn none() -> Self {
        Self { fd: -1, events: 0, happened: 0 }
    }
    /// True if something happened.
    pub fn ready(&self) -> bool {
        self.happened != 0
    }
    /// True if there is something to read.
    pub fn readable(&self) -> bool {
        self.happened & 1 != 0
    }
}

extern "C" fn ignore(_: c_int) {}

/// Leaves the signals and the descriptors of whoever started this program, and becomes the parent of orphans below it. Leaving its session
/// ([`new_session`]) costs milliseconds, so that comes when nobody waits any more.
pub fn detach() {
    // SAFETY: these calls take plain numbers; `ignore` does nothing and so may interrupt anything. A handler instead of SIG_IGN, because
    // ignored signals stay ignored in the programs that this one starts.
    unsafe {
        umask(0o022);
        // The last one tells of a dead child, and so ends a wait early.
        for number in [1, 2, 15, 17] {
            signal(number, ignore);
        }
        const SET_PDEATHSIG: c_int = 1;
        const SET_CHILD_SUBREAPER: c_int = 36;
        prctl(SET_PDEATHSIG, 0, 0, 0, 0);
        prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
    close_from(3);
}

/// Goes into a new user namespace, and into a new network namespace that belongs to it.
pub fn unshare_user_and_network() -> io::Result<()> {
    const NEW_USER_AND_NET: c_int = 0x1000_0000 | 0x4000_0000;
    // SAFETY: a plain number; this program has one thread.
    if unsafe { unshare(NEW_USER_AND_NET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the session of whoever started this program.
pub fn new_session() {
    // SAFETY: takes nothing, touches no memory.
    unsafe { setsid() };
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: RawFd) {
    // SAFETY: nothing in this program owns a descriptor above `first` when this is called: it runs first, or in a child that goes on with
    // descriptors below `first` only.
    unsafe { syscall(CLOSE_RANGE, c_long::from(first), c_long::from(i32::MAX), 0, 0) };
}

/// Moves a standard descriptor out of the way of the programs started from here, and puts `/dev/null` in its place.
pub fn take(standard: RawFd, null: &impl AsRawFd) -> io::Result<OwnedFd> {
    const DUPFD_CLOEXEC: c_int = 1030;
    // SAFETY: plain numbers; the new descriptor belongs to nobody yet, and `standard` is not owned by any value of this program.
    unsafe {
        let fd = fcntl(standard, DUPFD_CLOEXEC, 10);
        if fd < 0 || dup2(null.as_raw_fd(), standard) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes reads and writes answer at once.
pub fn set_nonblocking(fd: &impl AsRawFd) {
    const SETFL: c_int = 4;
    // SAFETY: plain numbers.
    unsafe { fcntl(fd.as_raw_fd(), SETFL, 0o4000) };
}

/// Waits until one of `fds` is ready, at most `timeout` milliseconds (-1: for ever).
pub fn wait_for(fds: &mut [Poll], timeout: i32) {
    // SAFETY: pointer and length are those of a live slice of the layout that poll(2) has. An interruption is answered like a timeout.
    unsafe { poll(fds.as_mut_ptr(), fds.len() as c_ulong, timeout) };
}

/// The raw wait status of a child that has ended; waits for it.
pub fn reap(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        if unsafe { waitpid(pid, &mut status, 0) } == pid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Buries every dead child but this one, which is left for [`reap`].
pub fn bury_others(keep: i32) {
    const ALL: c_int = 0;
    const EXITED_NOHANG_NOWAIT: c_int = 4 | 1 | 0x0100_0000;
    loop {
        // A siginfo: signal, error, code, padding, and then the pid of the child.
        let mut told = [0 as c_int; 32];
        // SAFETY: `told` is as large as the kernel's siginfo, 128 bytes, and outlives the call.
        let answer = unsafe { waitid(ALL, 0, (&raw mut told).cast(), EXITED_NOHANG_NOWAIT) };
        let pid = told[4];
        if answer != 0 || pid == 0 || pid == keep || reap(pid).is_err() {
            return;
        }
    }
}

fn owned(fd: c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes hold of a process.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { syscall(PIDFD_OPEN, c_long::from(pid), 0, 0, 0) })
}

/// A copy of descriptor `fd` of another process.
pub fn copy_fd(process: &OwnedFd, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { syscall(PIDFD_GETFD, c_long::from(process.as_raw_fd()), c_long::from(fd), 0, 0) })
}

/// Ends a process at once. Ok if it is dead.
pub fn end(process: &OwnedFd) {
    const KILL: c_long = 9;
    // SAFETY: plain numbers; without a siginfo (the 0) the kernel fills in its own.
    unsafe { syscall(PIDFD_SEND_SIGNAL, c_long::from(process.as_raw_fd()), KILL, 0, 0) };
}

/// Tells the processes inside how large their terminal is.
pub fn resize(terminal: &impl AsRawFd, columns: u16, rows: u16) {
    const SET_WINDOW: c_ulong = 0x5414;
    let mut size = [rows, columns, 0, 0];
    // SAFETY: `size` has the layout of a winsize, and outlives the call. Its failure means that nobody inside is left to be told.
    unsafe { ioctl(terminal.as_raw_fd(), SET_WINDOW, (&raw mut size).cast()) };
}

/// `struct pidfd_info` of Linux 6.13, as far as it is used.
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// The raw wait status of a process that is not our child. Only Linux 6.15 and later tell, and only once its parent has reaped it.
pub fn status_of_stranger(process: &OwnedFd) -> Option<i32> {
    const GET_INFO: c_ulong = 0xC040_FF0B;
    const EXIT: u64 = 1 << 3;
    let mut asked = PidfdInfo { mask: EXIT, cgroup: 0, ids: [0; 11], exit_code: 0 };
    // SAFETY: the request's number holds the size of this structure, which outlives the call.
    let answer = unsafe { ioctl(process.as_raw_fd(), GET_INFO, (&raw mut asked).cast()) };
    (answer == 0 && asked.mask & EXIT != 0).then_some(asked.exit_code)
}

/// Splits in two; the child runs `child` and ends. Returns the child's pid.
pub fn split(child: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: this program has one thread, so the child owns a consistent copy of everything.
    match unsafe { fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            child();
            // SAFETY: ends the child without running what the parent still has to do.
            unsafe { _exit(0) }
        }
        pid => Ok(pid),
    }
}

#[repr(C)]
struct Slice {
    base: *mut c_void,
    length: usize,
}

#[repr(C)]
struct Message {
    name: *mut c_void,
    name_length: c_uint,
    slices: *mut Slice,
    slice_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// A control message that carries one descriptor.
#[repr(C, align(8))]
struct Rights {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
    padding: c_int,
}

/// Receives the one descriptor that crun sends over its console socket.
pub fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    const CLOEXEC: c_int = 0x4000_0000;
    let mut text = [0u8; 64];
    let mut slice = Slice { base: text.as_mut_ptr().cast(), length: text.len() };
    let mut rights = Rights { length: 0, level: 0, kind: 0, fd: -1, padding: 0 };
    let mut message = Message {
        name: std::ptr::null_mut(),
        name_length: 0,
        slices: &raw mut slice,
        slice_count: 1,
        control: (&raw mut rights).cast(),
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    // SAFETY: every pointer in `message` is to a local that outlives the call, with its true length.
    if unsafe { recvmsg(stream.as_raw_fd(), &raw mut message, CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    owned(c_long::from(rights.fd))
}
