//! A socket of family AF_XDP: bound to one queue of an interface, with frames that the kernel and we give to each other
//! over four rings (Documentation/networking/af_xdp.rst). The kernel is trusted; lengths and addresses that it gives are
//! looked at all the same, and the bytes of frames are anybody's.
//!
//! Half of it receives, half of it sends, and they have nothing but the descriptor in common: they may be on two threads.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use outboard_device::DeviceError;
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XdpDesc, XdpDescOptions, XdpOptionsFlags, XdpRingOffset,
    XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with, sockopt,
};

use super::memory::{Frames, Mapping};
use super::ring::{Consumer, Entry, Layout, Producer};

/// Frames for what is received: as many as fit into the rings.
const RECEIVING: u32 = 2048;
/// Frames for what is sent.
const SENDING: u32 = 1024;
/// Bytes that the kernel keeps before each packet that is received (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// What frames come in, in bytes. The kernel takes no larger ones than a page.
const SIZES: [usize; 2] = [2048, 4096];

/// How long, and how often, a queue is asked for that somebody has.
const PATIENCE: Duration = Duration::from_secs(1);
const BLINK: Duration = Duration::from_millis(5);

/// Which of a socket's rings to map (linux/if_xdp.h).
const RX_RING: u64 = 0;
const TX_RING: u64 = 0x8000_0000;
const FILL_RING: u64 = 0x1_0000_0000;
const COMPLETION_RING: u64 = 0x1_8000_0000;

/// The longest packet that any frame can hold, in bytes.
pub(super) const MOST: usize = capacity(SIZES[1]);

/// The size of frames for packets of up to so many bytes, if there is one.
pub(super) fn size_for(most: usize) -> Option<usize> {
    SIZES.into_iter().find(|size| capacity(*size) >= most)
}

/// The longest packet that a frame of this size can hold, in bytes.
pub(super) const fn capacity(size: usize) -> usize {
    size - HEADROOM
}

/// Where a socket is to be.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    /// The interface, by its name for messages.
    pub(super) name: &'a str,
    pub(super) ifindex: u32,
    pub(super) queue: u32,
    /// The size of frames.
    pub(super) size: usize,
    /// The longest packet that may be sent, in bytes.
    pub(super) longest: &'a Arc<AtomicUsize>,
    /// `XDP_ZEROCOPY`, `XDP_COPY`, or neither: what the driver can.
    pub(super) copying: SocketAddrXdpFlags,
}

/// Makes a socket.
///
/// # Errors
/// The kernel refuses it; the message says what to do about it where that is known.
pub(super) fn open(place: &Place<'_>) -> Result<(Receiver, Sender), DeviceError> {
    let Place { name, queue, size, .. } = *place;
    let made = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None);
    let socket = made.map_err(|error| {
        let why = match error {
            Errno::PERM => " (it takes CAP_NET_RAW)",
            Errno::AFNOSUPPORT => " (the kernel has none: CONFIG_XDP_SOCKETS)",
            _ => "",
        };
        DeviceError::host(format!("cannot open an AF_XDP socket{why}"), error)
    })?;
    let (memory, receiving, sending) =
        Frames::pair([RECEIVING, SENDING].map(|count| count as usize), size)
            .map_err(|error| DeviceError::host("no memory for the frames of an AF_XDP socket", error))?;
    let registered = sockopt::set_xdp_umem_reg(
        &socket,
        XdpUmemReg {
            addr: memory.address(),
            len: memory.len() as u64,
            chunk_size: size as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        },
    );
    registered.map_err(|error| {
        let kib = memory.len() >> 10;
        let why = if error == Errno::NOBUFS { " (it takes RLIMIT_MEMLOCK, or CAP_IPC_LOCK)" } else { "" };
        DeviceError::host(format!("cannot lock {kib} KiB for an AF_XDP socket{why}"), error)
    })?;
    let failed = |error: io::Error| DeviceError::host("cannot set up the rings of an AF_XDP socket", error);
    let rings = Rings::new(&socket).map_err(failed)?;
    let flags = place.copying | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    bind_patiently(&socket, &SocketAddrXdp::new(flags, place.ifindex, queue)).map_err(|error| {
        let why = match error {
            Errno::BUSY => " (somebody has an AF_XDP socket there)",
            Errno::INVAL => " (there is no such queue: ethtool -l shows how many there are)",
            Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => " (the driver cannot do without copies)",
            _ => "",
        };
        DeviceError::host(format!("cannot have queue {queue} of {name}{why}"), error)
    })?;
    let socket = Arc::new(socket);
    let mut receiver = Receiver {
        socket: Arc::clone(&socket),
        frames: receiving,
        fill: rings.fill,
        received: rings.rx,
        current: None,
    };
    (0..receiver.frames.count()).for_each(|frame| receiver.give(frame));
    receiver.refill();
    let free = (0..sending.count()).collect();
    let longest = Arc::clone(place.longest);
    let sender =
        Sender { socket, frames: sending, longest, free, completed: rings.completion, sent: rings.tx };
    Ok((receiver, sender))
}

/// A queue that somebody has just given back is free a little later.
fn bind_patiently(socket: &OwnedFd, to: &SocketAddrXdp) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        match bind(socket, to) {
            Err(Errno::BUSY) if start.elapsed() < PATIENCE => thread::sleep(BLINK),
            done => return done,
        }
    }
}

/// The rings of a socket.
struct Rings {
    fill: Producer,
    completion: Consumer,
    rx: Consumer,
    tx: Producer,
}

impl Rings {
    fn new(socket: &OwnedFd) -> io::Result<Self> {
        sockopt::set_xdp_umem_fill_ring_size(socket, RECEIVING)?;
        sockopt::set_xdp_umem_completion_ring_size(socket, SENDING)?;
        sockopt::set_xdp_rx_ring_size(socket, RECEIVING)?;
        sockopt::set_xdp_tx_ring_size(socket, SENDING)?;
        let at = sockopt::xdp_mmap_offsets(socket)?;
        Ok(Self {
            fill: Producer::new(layout::<u64>(socket, &at.fr, RECEIVING, FILL_RING)?),
            completion: Consumer::new(layout::<u64>(socket, &at.cr, SENDING, COMPLETION_RING)?),
            rx: Consumer::new(layout::<XdpDesc>(socket, &at.rx, RECEIVING, RX_RING)?),
            tx: Producer::new(layout::<XdpDesc>(socket, &at.tx, SENDING, TX_RING)?),
        })
    }
}

fn layout<E: Entry>(socket: &OwnedFd, at: &XdpRingOffset, count: u32, which: u64) -> io::Result<Layout> {
    let mapping = Mapping::of_ring(socket.as_fd(), Layout::bytes::<E>(at, count), which)?;
    Ok(Layout::new(Arc::new(mapping), at, count))
}

/// What a socket has done, as far as the kernel counts it.
pub(super) fn statistics(socket: &OwnedFd) -> io::Result<XdpStatistics> {
    Ok(sockopt::xdp_statistics(socket)?)
}

/// Whether the driver writes to our frames itself.
pub(super) fn is_zero_copy(socket: &OwnedFd) -> bool {
    sockopt::xdp_options(socket).is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
}

/// The half of a socket that receives.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: Arc<OwnedFd>,
    frames: Frames,
    fill: Producer,
    received: Consumer,
    /// What was received last, and is not done with.
    current: Option<(usize, Range<usize>)>,
}

impl Receiver {
    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Whether there is a packet.
    pub(super) fn has_packet(&self) -> bool {
        self.current.is_some() || !self.received.is_empty()
    }

    /// The next packet: the same one until [`Self::done`].
    pub(super) fn packet(&mut self) -> Option<&[u8]> {
        while self.current.is_none() {
            let XdpDesc { addr, len, .. } = self.received.pop()?;
            // The kernel gives back what it has, and packets that fit; of others there is nothing to be had.
            if let Some((frame, from)) = self.frames.take_back(addr) {
                self.current = Some((frame, from..from.saturating_add(len as usize)));
            }
        }
        let (frame, range) = self.current.clone()?;
        Some(self.frames.bytes(frame)?.get(range).unwrap_or_default())
    }

    /// Is done with the packet: its frame is for another one.
    pub(super) fn done(&mut self) {
        if let Some((frame, _)) = self.current.take() {
            self.give(frame);
        }
    }

    fn give(&mut self, frame: usize) {
        if let Some(address) = self.frames.lend(frame) {
            // There is room for all frames that there are.
            self.fill.push(&address);
        }
    }

    /// Frames that [`Self::refill`] has not shown yet.
    pub(super) const fn hidden(&self) -> u32 {
        self.fill.hidden()
    }

    /// Shows the kernel which frames it may fill. At the end of each batch.
    pub(super) fn refill(&mut self) {
        self.received.show();
        if self.fill.hidden() > 0 && self.fill.show() {
            // The driver looks for frames; there is nothing to read here.
            let mut nothing = [0_u8; 0];
            let _ = recv(&self.socket, &mut nothing[..], RecvFlags::DONTWAIT);
        }
    }

    /// Drops what has come. How much it was.
    pub(super) fn clear(&mut self) -> usize {
        let mut count = 0;
        while count < self.frames.count() && self.packet().is_some() {
            self.done();
            count += 1;
        }
        self.refill();
        count
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The half of a socket that sends.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Arc<OwnedFd>,
    frames: Frames,
    /// Of a packet, in bytes: some drivers take offence at more.
    longest: Arc<AtomicUsize>,
    /// Frames that are ours.
    free: Vec<usize>,
    completed: Consumer,
    sent: Producer,
}

impl Sender {
    /// Sends a packet of so many bytes, which `write` writes: with [`Self::flush`], or before.
    ///
    /// # Errors
    /// `EMSGSIZE`: it is too long. `ENOBUFS`: the interface is behind. `EINVAL`: there was nothing to write.
    pub(super) fn send(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> bool) -> io::Result<()> {
        if len > self.longest.load(Ordering::Relaxed) {
            return Err(Errno::MSGSIZE.into());
        }
        if self.free.is_empty() {
            self.reclaim();
            if self.free.is_empty() {
                self.flush()?;
                self.reclaim();
            }
        }
        let frame = *self.free.last().ok_or(Errno::NOBUFS)?;
        let room =
            self.frames.bytes_mut(frame).and_then(|bytes| bytes.get_mut(..len)).ok_or(Errno::MSGSIZE)?;
        if !write(room) {
            return Err(Errno::INVAL.into());
        }
        self.free.pop();
        let addr = self.frames.lend(frame).ok_or(Errno::NOBUFS)?;
        // There is room for all frames that there are.
        self.sent.push(&XdpDesc { addr, len: len as u32, options: XdpDescOptions::empty() });
        Ok(())
    }

    /// Takes back frames of packets that are sent.
    fn reclaim(&mut self) {
        while let Some(address) = self.completed.pop() {
            self.free.extend(self.frames.take_back(address).map(|(frame, _)| frame));
        }
        self.completed.show();
    }

    /// Packets that [`Self::flush`] has not shown yet.
    pub(super) const fn hidden(&self) -> u32 {
        self.sent.hidden()
    }

    /// Has the kernel send what there is. False if it did not get to the end, and is to be told again.
    ///
    /// # Errors
    /// The interface is down, or gone.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        if !self.sent.show() {
            return Ok(true);
        }
        let mut left = self.sent.unconsumed();
        while left > 0 {
            match send(&self.socket, &[], SendFlags::DONTWAIT) {
                // The driver goes on by itself, or all was sent.
                Ok(_) => return Ok(true),
                // So many at a time (EAGAIN), or one was dropped (EBUSY), or the interface's queue is full (ENOBUFS).
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = self.sent.unconsumed();
            if now == left {
                return Ok(false);
            }
            left = now;
        }
        Ok(true)
    }
}
