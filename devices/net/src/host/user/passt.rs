//! passt(1) in place of a network of our own: a program that is started with a socket to it, over which frames go, each
//! behind its length (as QEMU's `-netdev stream` has it). It is trusted to be what the command line says; what it sends is
//! checked like anybody's.
#![allow(unsafe_code, reason = "a descriptor is handed to a program that is started")]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use outboard_device::{Cx, DeviceError, SourceId};
use outboard_frames::{MAX_LEN, MIN_LEN, Offload, plain};
use outboard_usernet::{Forward, Protocol};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use super::{Dns, MTU, NoneOr, UserOptions};
use crate::host::{Backing, Sent, Side, Terms};
use crate::rx::{Dropped, Rx};
use crate::tx::Outgoing;

/// What the socket is watched as.
const SOCKET: SourceId = SourceId(0);
/// So many frames at a time: the guest's own have their turn.
const AT_ONCE: usize = 64;
/// The most bytes that wait for passt; what is more is dropped.
const MAX_WAITING: usize = 1 << 20;
/// Bytes of a length.
const LENGTH: usize = 4;

/// How passt is started, in the hands of the control half.
pub(super) struct Passt {
    path: PathBuf,
    arguments: Vec<String>,
}

impl Passt {
    /// What the options mean to it.
    ///
    /// # Errors
    /// It is not there, or has nothing for one of them.
    pub(super) fn new(path: &Path, options: &UserOptions) -> Result<Self, DeviceError> {
        let cannot = |what: String| Err(DeviceError::Invalid(format!("passt cannot have {what}")));
        std::fs::metadata(path)
            .map_err(|error| DeviceError::host(format!("cannot start {}", path.display()), error))?;
        let mut arguments = vec!["--foreground".to_owned(), "--quiet".to_owned()];
        if let Some(net) = options.net {
            let (guest, prefix, gateway) = (net.guest(), net.prefix(), net.gateway());
            arguments.extend([format!("--address={guest}"), format!("--netmask={prefix}")]);
            arguments.push(format!("--gateway={gateway}"));
        }
        match options.net6 {
            None => {}
            Some(NoneOr::None) => arguments.push("--ipv4-only".to_owned()),
            Some(NoneOr::Some(_)) => return cannot("an IPv6 network of its own: --net6".to_owned()),
        }
        match options.dns {
            None | Some(Dns::Auto) => {}
            Some(Dns::At(address)) if address.port() == 53 => {
                arguments.push(format!("--dns={}", address.ip()));
            }
            Some(Dns::At(address)) => {
                return cannot(format!("a resolver at another port than 53: --dns {address}"));
            }
        }
        if options.no_host_loopback {
            arguments.push("--no-map-gw".to_owned());
        }
        for forward in &options.host_forward {
            if forward.guest.is_some() || forward.host.port() == 0 {
                return cannot(format!("a port forwarded so: {}", forward.host));
            }
            arguments.push(port(forward));
        }
        Ok(Self { path: path.to_owned(), arguments })
    }

    /// How it is started for a guest with this MTU.
    fn command(&self, mtu: Option<u16>) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg(format!("--mtu={}", mtu.unwrap_or(MTU)));
        command
    }
}

fn port(Forward { protocol, host, port, .. }: &Forward) -> String {
    let option = match protocol {
        Protocol::Tcp => "--tcp-ports",
        Protocol::Udp => "--udp-ports",
    };
    let address: IpAddr = SocketAddr::ip(host);
    format!("{option}={address}/{}:{port}", host.port())
}

impl Backing for Passt {
    fn name(&self) -> &'static str {
        "user"
    }

    fn side(&mut self, _: u16, terms: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        let failed = |error| DeviceError::host(format!("cannot start {}", self.path.display()), error);
        let (ours, theirs) = pair().map_err(failed)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&epoll, &ours, EventData::new_u64(0), flags).map_err(|error| failed(error.into()))?;
        let number = theirs.as_raw_fd();
        let mut command = self.command(terms.mtu);
        command.arg(format!("--fd={number}")).stdin(Stdio::null());
        // SAFETY: between fork and exec only fcntl(2) is called, which is safe after a signal, on a descriptor that `theirs`
        // keeps open until the program has started.
        unsafe {
            command.pre_exec(move || {
                let theirs = BorrowedFd::borrow_raw(number);
                Ok(fcntl_setfd(theirs, FdFlags::empty())?)
            })
        };
        let program = command.spawn().map_err(failed)?;
        drop(theirs);
        Ok(Box::new(Pipe {
            program,
            socket: ours,
            epoll,
            may_have: true,
            has_no_buffers: false,
            is_over: false,
            received: Vec::new(),
            taken: 0,
            waiting: Waiting::default(),
            frame: vec![0; MAX_LEN as usize],
        }))
    }

    fn most_pairs(&self) -> u16 {
        1
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// The program and the socket to it, in the hands of the thread that serves the pair.
struct Pipe {
    program: Child,
    socket: OwnedFd,
    /// Tells when the socket may be read, or written.
    epoll: OwnedFd,
    /// It may have something to be read.
    may_have: bool,
    /// The guest takes no frames before it has given buffers.
    has_no_buffers: bool,
    /// The program is gone.
    is_over: bool,
    /// What was read, and how much of it was taken.
    received: Vec<u8>,
    taken: usize,
    /// What is to be written.
    waiting: Waiting,
    frame: Vec<u8>,
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// How many of them were written.
    sent: usize,
}

impl Waiting {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Adds a frame behind its length.
    fn add(&mut self, frame: &[u8]) {
        // No frame is longer than MAX_LEN.
        self.bytes.extend((frame.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(frame);
    }

    /// What is to be written next, if there is anything.
    fn next(&self) -> Option<&[u8]> {
        self.bytes.get(self.sent..).filter(|rest| !rest.is_empty())
    }

    /// So many bytes of that were written. When they are half of all, they go: what is behind them is moved once.
    fn written(&mut self, len: usize) {
        self.sent = (self.sent + len).min(self.bytes.len());
        if 2 * self.sent >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

impl Pipe {
    /// Writes what waits, as far as there is room.
    fn write(&mut self, cx: &mut Cx<'_, ()>) {
        while let Some(rest) = self.waiting.next() {
            match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(len) => self.waiting.written(len),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return,
                Err(error) => return self.over(&io::Error::from(error), cx),
            }
        }
    }

    /// The program is gone: there is nobody there any more.
    fn over(&mut self, why: &io::Error, cx: &mut Cx<'_, ()>) {
        if !self.is_over {
            cx.warn("passt is gone, and the guest's network with it", why);
        }
        (self.is_over, self.may_have) = (true, false);
        self.waiting = Waiting::default();
    }

    /// Reads more. False if there is nothing.
    fn read(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.received.drain(..self.taken);
        self.taken = 0;
        let len = self.received.len();
        self.received.resize(len + (MAX_LEN as usize), 0);
        let room = self.received.get_mut(len..).unwrap_or_default();
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, &mut *room));
        self.received.truncate(len + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.over(&ErrorKind::UnexpectedEof.into(), cx),
            Ok(_) => return true,
            Err(Errno::WOULDBLOCK) => self.may_have = false,
            Err(error) => self.over(&error.into(), cx),
        }
        false
    }

    /// The next frame that is there whole: where in `received` it ends.
    fn next(&mut self, cx: &mut Cx<'_, ()>) -> Option<std::ops::Range<usize>> {
        loop {
            let rest = self.received.get(self.taken..).unwrap_or_default();
            if let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() {
                let len = u32::from_be_bytes(*length);
                if !(MIN_LEN..=MAX_LEN).contains(&len) {
                    self.over(&io::Error::new(ErrorKind::InvalidData, format!("a frame of {len} bytes")), cx);
                    return None;
                }
                if rest.len() >= len as usize {
                    let from = self.taken + LENGTH;
                    return Some(from..from + len as usize);
                }
            }
            if !self.may_have || !self.read(cx) {
                return None;
            }
        }
    }
}

impl Side for Pipe {
    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let watched = cx.watch_once(self.epoll.as_fd(), SOCKET);
        watched.map_err(|error| DeviceError::host("cannot watch the socket to passt", error))
    }

    fn turned(&mut self, _: bool, _: &mut Cx<'_, ()>) {
        self.has_no_buffers = false;
    }

    fn send(&mut self, mut packet: Outgoing<'_>, _: &mut Rx, cx: &mut Cx<'_, ()>) -> Sent {
        let (head, len) = (packet.head.len(), packet.len());
        if self.is_over || self.waiting.len() > MAX_WAITING {
            let why = if self.is_over { ErrorKind::BrokenPipe } else { ErrorKind::WouldBlock };
            return Sent::Refused(packet.rest, why.into());
        }
        let Some(frame) = self.frame.get_mut(..len) else { return Sent::Done(packet.rest) };
        if let Some((front, rest)) = frame.split_at_mut_checked(head) {
            front.copy_from_slice(packet.head);
            // As many as are left.
            let _ = packet.rest.read_exact(rest);
        }
        plain(&packet.offload, frame, |frame| self.waiting.add(frame));
        if self.waiting.len() >= MAX_LEN as usize {
            self.write(cx);
        }
        Sent::Done(packet.rest)
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        self.write(cx);
        self.has_no_buffers = false;
        for done in 0..AT_ONCE {
            let Some(frame) = self.next(cx) else { return done > 0 };
            let end = frame.end;
            let frame = self.received.get(frame).unwrap_or_default();
            if rx.deliver(&Offload::None, frame, cx) == Err(Dropped::NoBuffer) {
                self.has_no_buffers = true;
                return done > 0;
            }
            self.taken = end;
        }
        true
    }

    fn is_ready(&self) -> bool {
        self.may_have && !self.has_no_buffers
    }

    fn event(&mut self, _: SourceId, cx: &mut Cx<'_, ()>) {
        // What it tells is looked for anyway; but it is not told again unless it was heard.
        let mut heard = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 1];
        let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Err(error) = epoll::wait(&self.epoll, &mut heard, Some(&zero)) {
            cx.warn("the socket to passt", io::Error::from(error));
        }
        self.may_have = !self.is_over;
        if !self.is_over {
            cx.rearm(SOCKET);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // It ends by itself when the socket closes; but it is not to be waited for.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(options: &UserOptions) -> Result<Vec<String>, String> {
        let passt = Passt::new(Path::new("/dev/null"), options).map_err(|error| error.to_string())?;
        let command = passt.command(Some(1400));
        Ok(command.get_args().skip(2).map(|argument| argument.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn what_was_written_does_not_wait_any_more() {
        let mut waiting = Waiting::default();
        assert_eq!((waiting.len(), waiting.next()), (0, None));
        (0..10).for_each(|byte| waiting.add(&[byte; 96]));
        for (len, kept) in [(300, 1000), (199, 1000), (1, 500), (100, 500), (400, 0)] {
            let left = waiting.len() - len;
            waiting.written(len);
            assert_eq!((waiting.len(), waiting.bytes.len()), (left, kept));
        }
        assert_eq!(waiting.next(), None);
        waiting.add(&[7; 2]);
        assert_eq!(waiting.next(), Some(&[0, 0, 0, 2, 7, 7][..]));
    }

    #[test]
    fn passt_is_told_what_the_options_say() {
        let options = UserOptions {
            net: Some("10.1.0.0/16".parse().unwrap()),
            net6: Some(NoneOr::None),
            host_forward: vec![
                "tcp:127.0.0.1:2222-:22".parse().unwrap(),
                "udp:[::1]:53-:5353".parse().unwrap(),
            ],
            dns: Some("192.0.2.1".parse().unwrap()),
            no_host_loopback: true,
            ..UserOptions::default()
        };
        let expected = [
            "--address=10.1.0.15",
            "--netmask=16",
            "--gateway=10.1.0.2",
            "--ipv4-only",
            "--dns=192.0.2.1",
            "--no-map-gw",
            "--tcp-ports=127.0.0.1/2222:22",
            "--udp-ports=::1/53:5353",
            "--mtu=1400",
        ];
        assert_eq!(arguments(&options).unwrap(), expected);
        assert_eq!(arguments(&UserOptions::default()).unwrap(), ["--mtu=1400"]);
    }

    #[test]
    fn passt_is_not_told_what_it_cannot_do() {
        let none = UserOptions::default;
        for (options, reason) in [
            (UserOptions { net6: Some(NoneOr::Some("fd00::/64".parse().unwrap())), ..none() }, "--net6"),
            (UserOptions { dns: Some("192.0.2.1:5353".parse().unwrap()), ..none() }, "another port"),
            (
                UserOptions { host_forward: vec!["tcp:127.0.0.1:0-:22".parse().unwrap()], ..none() },
                "forwarded",
            ),
            (
                UserOptions { host_forward: vec!["tcp:127.0.0.1:1-10.0.2.15:22".parse().unwrap()], ..none() },
                "forwarded",
            ),
        ] {
            assert!(arguments(&options).unwrap_err().contains(reason), "{reason}");
        }
    }
}
