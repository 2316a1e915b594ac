//! Terminals of processes that are added to a container: crun makes them inside and sends the outer end over a socket.

#![expect(unsafe_code, reason = "a received descriptor has no owner yet, and resizing is an ioctl")]

use nix::{
    cmsg_space,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    pty::Winsize,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use std::{
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};
use tokio::net::{
    UnixListener,
    unix::pipe::{Receiver, Sender},
};
use yun_engine::session::WindowSize;

/// Where crun sends a terminal to. The socket's file goes away with this value.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at this path.
    pub(super) fn bind(path: PathBuf) -> io::Result<Self> {
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Where it listens.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Receives the one terminal that comes.
    pub(super) async fn receive(&self) -> io::Result<Terminal> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(tokio::io::Interest::READABLE, || receive(stream.as_raw_fd())) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
                Ok(fd) => {
                    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
                    return Ok(Terminal { fd });
                }
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // It is in the run directory of the container, which is removed with everything in it.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn receive(socket: i32) -> io::Result<OwnedFd> {
    let mut text = [0; 64];
    let mut slices = [IoSliceMut::new(&mut text)];
    let mut space = cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let [fd] = fds[..]
        {
            // SAFETY: the kernel has just given this descriptor to us alone.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "crun sent no terminal"))
}

/// The outer end of a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    fd: OwnedFd,
}

impl Terminal {
    /// Tells the processes inside how large it is.
    pub(super) fn resize(&self, size: WindowSize) {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor lives as long as `self`, and `size` has the layout that this request reads. Its failure means that nobody
        // inside is left to be told.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }

    /// Both directions. Not pipes, but descriptors that can be polled and read and written in the same way.
    pub(super) fn split(&self) -> io::Result<(Receiver, Sender)> {
        Ok((
            Receiver::from_owned_fd_unchecked(self.fd.try_clone()?)?,
            Sender::from_owned_fd_unchecked(self.fd.try_clone()?)?,
        ))
    }
}
