//! Message links between processes: bounded, copying, keeping message boundaries.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt};

use crate::clock::Monotonic;
use crate::protocol::MAX_MESSAGE;

/// Asked of the kernel for each direction; it caps this at `net.core.wmem_max`.
const SEND_BUFFER: usize = 8 * MAX_MESSAGE;

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The queue is full now.
    #[error("the queue is full")]
    Full,
    /// The message is longer than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is longer than a link carries")]
    TooLong(usize),
    /// The other end is gone, or the socket is broken.
    #[error("the link is broken: {0}")]
    Broken(#[from] io::Error),
}

/// What a worker needs of a transport: never waits to send, waits to receive no longer than it is told.
pub trait Link {
    /// Queues one message, or says at once why not.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    fn send(&self, message: &[u8]) -> Result<(), SendError>;

    /// Waits for one message until `deadline` (for ever without one) and puts it into `buffer`.
    ///
    /// Returns its length, or `None` when the deadline passed.
    ///
    /// # Errors
    /// When the link is broken or the message did not fit the buffer.
    fn receive(&self, buffer: &mut [u8], deadline: Option<Monotonic>) -> io::Result<Option<usize>>;
}

impl<L: Link> Link for &L {
    fn send(&self, message: &[u8]) -> Result<(), SendError> {
        (**self).send(message)
    }

    fn receive(&self, buffer: &mut [u8], deadline: Option<Monotonic>) -> io::Result<Option<usize>> {
        (**self).receive(buffer, deadline)
    }
}

/// One end of a `SOCK_SEQPACKET` socketpair.
#[derive(Debug)]
pub struct Seqpacket {
    socket: OwnedFd,
    /// Milliseconds after which `recv` returns; 0: never.
    limit_ms: AtomicU64,
}

impl Seqpacket {
    /// Makes a link; each end is for one side. Made before the fork, so that both processes have both.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for end in [&a, &b] {
            sockopt::set_socket_send_buffer_size(end, SEND_BUFFER)?;
        }
        Ok((Self::over(a), Self::over(b)))
    }

    fn over(socket: OwnedFd) -> Self {
        Self { socket, limit_ms: AtomicU64::new(0) }
    }

    /// Makes plain reads and writes on this end return instead of wait, as an event loop needs it.
    ///
    /// # Errors
    /// When the descriptor is not open.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(fcntl_setfl(&self.socket, fcntl_getfl(&self.socket)? | OFlags::NONBLOCK)?)
    }

    /// Takes one message if there is one.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `InvalidData` when it did not fit the buffer.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive_now(buffer, RecvFlags::DONTWAIT)
    }

    /// Another descriptor of the same end.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    fn receive_now(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let room = buffer.len();
        let (_, length) = recv(&self.socket, buffer, flags | RecvFlags::TRUNC)?;
        if length > room {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {length} bytes was cut to {room}"),
            ));
        }
        Ok(length)
    }

    /// Has `recv` return after `limit`, rounded up to milliseconds. The kernel keeps this, so waits of the same length cost one
    /// system call each; `poll` would be one more.
    fn limit_wait(&self, limit: Duration) -> io::Result<()> {
        let millis = u64::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        if self.limit_ms.swap(millis, Ordering::Relaxed) != millis {
            sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(Duration::from_millis(millis)))?;
        }
        Ok(())
    }

    /// Waits in `recv`, where of several processes that wait on one link a message wakes only one; `poll` would wake all.
    fn receive_for_ever(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.receive_now(buffer, RecvFlags::empty()) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }

    fn receive_until(&self, buffer: &mut [u8], deadline: Monotonic) -> io::Result<Option<usize>> {
        while let Some(left) = deadline.remaining() {
            self.limit_wait(left)?;
            match self.receive_now(buffer, RecvFlags::empty()) {
                // The time is over, or a signal came.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Seqpacket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl Link for Seqpacket {
    fn send(&self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > MAX_MESSAGE {
            return Err(SendError::TooLong(message.len()));
        }
        loop {
            return match send(&self.socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => Err(SendError::Full),
                Err(error) => Err(SendError::Broken(error.into())),
            };
        }
    }

    fn receive(&self, buffer: &mut [u8], deadline: Option<Monotonic>) -> io::Result<Option<usize>> {
        match deadline {
            None => self.receive_for_ever(buffer).map(Some),
            Some(deadline) => self.receive_until(buffer, deadline),
        }
        .and_then(|received| match received {
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => Ok(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn link() -> (Seqpacket, Seqpacket) {
        Seqpacket::pair().expect("a socketpair")
    }

    fn soon(millis: u64) -> Option<Monotonic> {
        Some(Monotonic::now().after(Duration::from_millis(millis)))
    }

    #[test]
    fn the_longest_message_arrives_whole() {
        let (a, b) = link();
        let message = vec![0x5a; MAX_MESSAGE];
        a.send(&message).expect("fits");
        let mut buffer = vec![0; MAX_MESSAGE];
        assert_eq!(b.receive(&mut buffer, soon(1000)).expect("whole"), Some(MAX_MESSAGE));
        assert_eq!(buffer, message);
    }

    #[test]
    fn a_longer_message_is_refused_before_it_is_sent() {
        let (a, b) = link();
        assert!(matches!(a.send(&vec![0; MAX_MESSAGE + 1]), Err(SendError::TooLong(_))));
        assert_eq!(b.receive(&mut [0; 16], soon(1)).expect("no message"), None);
    }

    #[test]
    fn a_full_queue_answers_at_once() {
        let (a, _b) = link();
        let sent = (0..100_000).take_while(|_| a.send(&[0; 700]).is_ok()).count();
        assert!(sent > 100 && sent < 100_000, "the queue took {sent} messages");
        assert!(matches!(a.send(&[0; 700]), Err(SendError::Full)));
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let (_a, b) = link();
        let start = Instant::now();
        assert_eq!(b.receive(&mut [0; 16], soon(30)).expect("no message"), None);
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn a_message_cut_by_a_short_buffer_is_an_error() {
        let (a, b) = link();
        a.send(&[0; 100]).expect("fits");
        let error = b.receive(&mut [0; 16], soon(1000)).expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_other_end_closing_is_an_error() {
        let (a, b) = link();
        drop(a);
        assert!(b.receive(&mut [0; 16], soon(1000)).is_err());
        assert!(matches!(b.send(&[1]), Err(SendError::Broken(_))));
    }
}
