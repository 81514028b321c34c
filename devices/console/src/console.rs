//! All ports of a device, and what driver and device say to each other of them. It outlives handlers: a guest that is paused
//! finds its ports as they were.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use outboard_device::defs::console::{Control, DEVICE_READY, DEVICE_REMOVE, PORT_OPEN, PORT_READY};
use outboard_device::serde_json::{Value, json};
use outboard_device::{Chain, DeviceError, Outbox, QueueId};
use outboard_streams::Poller;

use crate::host::Watch;
use crate::port::Port;
use crate::talk::{News, Talk, control, message};
use crate::{PortSpec, Size};

/// Messages for the driver: queue 2 (VIRTIO 1.3, 5.3.2).
pub(crate) const MESSAGES: QueueId = QueueId(2);
/// Messages of the driver.
pub(crate) const ORDERS: QueueId = QueueId(3);
/// Messages that wait for the driver's buffers; of more, it is known what they have to say.
const WAITING: usize = 64;

/// Which port a queue belongs to (VIRTIO 1.3, 5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    ToGuest(usize),
    FromGuest(usize),
    Messages,
    Orders,
}

impl Role {
    pub(crate) fn of(queue: QueueId) -> Self {
        let id = usize::from(queue.0);
        match (queue, id / 2, id % 2 == 0) {
            (MESSAGES, ..) => Self::Messages,
            (ORDERS, ..) => Self::Orders,
            (_, pair, true) => Self::ToGuest(pair.saturating_sub(usize::from(pair > 0))),
            (_, pair, false) => Self::FromGuest(pair.saturating_sub(usize::from(pair > 0))),
        }
    }
}

/// The queue in which the guest has buffers for what is for `port`.
pub(crate) fn queue_to(port: usize) -> QueueId {
    QueueId(if port == 0 { 0 } else { 2 * port as u16 + 2 })
}

/// The size of port 0, for the configuration space.
#[derive(Debug)]
pub(crate) struct SharedSize(AtomicU32);

impl SharedSize {
    pub(crate) fn new(size: Size) -> Arc<Self> {
        let shared = Self(AtomicU32::default());
        shared.set(size);
        Arc::new(shared)
    }

    /// Whether it is another one.
    pub(crate) fn set(&self, Size { cols, rows }: Size) -> bool {
        let size = u32::from(cols) << 16 | u32::from(rows);
        self.0.swap(size, Ordering::Relaxed) != size
    }

    pub(crate) fn value(&self) -> Size {
        let size = self.0.load(Ordering::Relaxed);
        Size { cols: (size >> 16) as u16, rows: size as u16 }
    }
}

/// All ports.
pub(crate) struct Console {
    pub(crate) ports: Vec<Option<Port>>,
    pub(crate) poller: Arc<Poller>,
    pub(crate) outbox: Outbox,
    /// Driver and device have agreed on messages and several ports.
    pub(crate) multiport: bool,
    /// What the driver has done is known.
    pub(crate) is_known: bool,
    driver_ready: bool,
    rows_first: bool,
    /// Ports whose end the driver is to hear of, a bit each.
    gone: u32,
    /// Messages that made no sense.
    refused: u64,
    first_size: Size,
}

impl Console {
    pub(crate) fn open(
        specs: &[PortSpec],
        room: usize,
        size: Size,
        rows_first: bool,
    ) -> Result<Self, DeviceError> {
        let poller = Poller::new().map_err(|error| DeviceError::host("cannot watch far ends", error))?;
        let mut console = Self {
            ports: (0..room).map(|_| None).collect(),
            poller: Arc::new(poller),
            outbox: Outbox::new(MESSAGES, WAITING),
            multiport: false,
            is_known: false,
            driver_ready: false,
            rows_first,
            gone: 0,
            refused: 0,
            first_size: size,
        };
        for spec in specs {
            console.add(spec.clone())?;
        }
        Ok(console)
    }

    /// The ports that there are, with their numbers.
    pub(crate) fn each(&mut self) -> impl Iterator<Item = (usize, &mut Port)> {
        self.ports.iter_mut().enumerate().filter_map(|(id, port)| Some((id, port.as_mut()?)))
    }

    pub(crate) fn port(&mut self, id: usize) -> Option<&mut Port> {
        self.ports.get_mut(id)?.as_mut()
    }

    /// A port by its number.
    pub(crate) fn known(&mut self, id: usize) -> Result<&mut Port, DeviceError> {
        self.port(id).ok_or_else(|| DeviceError::Invalid(format!("there is no port {id}")))
    }

    /// Adds a port, and tells the driver; its number.
    pub(crate) fn add(&mut self, spec: PortSpec) -> Result<usize, DeviceError> {
        let taken = self.each().any(|(_, port)| !spec.name.is_empty() && port.spec.name == spec.name);
        if taken {
            return Err(DeviceError::Invalid(format!("two ports are called {:?}", spec.name)));
        }
        let (id, place) =
            (self.ports.iter_mut().enumerate().find(|(_, port)| port.is_none())).ok_or_else(|| {
                DeviceError::Invalid("there is no room for another port: --max-ports".to_owned())
            })?;
        let watch = Watch::new(&self.poller, id);
        let port = place.insert(Port::open(spec, self.first_size, watch)?);
        if self.driver_ready {
            port.talk.announce();
        }
        Ok(id)
    }

    /// Takes a port away, and tells the driver.
    pub(crate) fn remove(&mut self, id: usize) -> Result<(), DeviceError> {
        self.known(id)?;
        if id == 0 {
            return Err(DeviceError::Invalid("port 0 stays: it is there without messages".to_owned()));
        }
        if let Some(place) = self.ports.get_mut(id) {
            *place = None;
        }
        self.gone |= u32::from(self.driver_ready) << id;
        Ok(())
    }

    /// Another driver begins.
    pub(crate) fn forget(&mut self) {
        (self.is_known, self.driver_ready, self.gone) = (true, false, 0);
        self.outbox.clear();
        self.each().for_each(|(_, port)| port.forget());
    }

    /// A handler begins.
    pub(crate) fn begin(&mut self, multiport: bool) {
        self.multiport = multiport;
        if !std::mem::replace(&mut self.is_known, true) && multiport {
            // The driver has talked with a program before this one, of which we know no more than our own options.
            self.driver_ready = true;
            for (_, port) in self.each() {
                port.talk = Talk::resumed();
                let console = port.spec.console.then_some(News::Size);
                let open = if port.far.is_open() { News::Open } else { News::Closed };
                [Some(open), console].into_iter().flatten().for_each(|news| port.talk.tell(news));
            }
        }
        for (_, port) in self.each() {
            port.begins_to_wait();
            port.stir(true);
        }
    }

    /// Whether the guest takes what comes from a port's far end.
    pub(crate) fn takes(&self, id: usize) -> bool {
        match self.ports.get(id) {
            Some(Some(_)) if !self.multiport => id == 0,
            Some(Some(port)) => port.talk.is_ready() && (port.talk.guest_open || port.spec.console),
            _ => false,
        }
    }

    /// Carries out a message of the driver (VIRTIO 1.3, 5.3.6.2).
    pub(crate) fn order(&mut self, chain: &mut Chain) {
        let Ok(Control { id, event, value }) = chain.read_obj::<Control>() else {
            self.refused += 1;
            return;
        };
        let on = value.get() != 0;
        let port = self.ports.get_mut(id.get() as usize).and_then(Option::as_mut);
        match (event.get(), port) {
            (DEVICE_READY, _) => {
                self.driver_ready = on;
                for (_, port) in self.each() {
                    if on { port.talk.announce() } else { port.talk = Talk::default() }
                }
            }
            (PORT_READY, Some(port)) => {
                let console = port.spec.console;
                let news = [
                    console.then_some(News::IsConsole),
                    (!port.spec.name.is_empty()).then_some(News::Name),
                    console.then_some(News::Size),
                    port.far.is_open().then_some(News::Open),
                ];
                port.talk.readied(on, news.into_iter().flatten());
                port.stir(true);
            }
            (PORT_OPEN, Some(port)) if port.talk.is_ready() => {
                port.talk.guest_open = on;
                port.stir(true);
            }
            _ => self.refused += 1,
        }
    }

    /// Tells the driver what there is to tell, as far as it has room.
    pub(crate) fn tell(&mut self) {
        if !self.multiport {
            return;
        }
        for id in 0..self.ports.len() as u32 {
            if self.gone & 1 << id != 0 && self.outbox.put([control(id, DEVICE_REMOVE, 1)]) {
                self.gone &= !(1 << id);
            }
        }
        if self.gone != 0 {
            return;
        }
        let Self { ports, outbox, rows_first, .. } = self;
        for (id, port) in (0..).zip(ports).filter_map(|(id, port)| Some((id, port.as_mut()?))) {
            let Port { talk, spec, size, .. } = port;
            talk.flush(|news| outbox.put([message(id, news, &spec.name, *size, *rows_first)]));
        }
    }

    /// Hears of the far ends.
    pub(crate) fn collect(&mut self) -> io::Result<()> {
        let poller = Arc::clone(&self.poller);
        poller.collect(|id, news| {
            if let Some(port) = usize::try_from(id).ok().and_then(|id| self.port(id)) {
                port.stir(news.readable || news.ended || news.gone);
            }
        })?;
        Ok(())
    }

    pub(crate) fn show(&mut self) -> Value {
        let ports: Vec<Value> = self.each().map(|(id, port)| port.show(id)).collect();
        let talk = json!({ "driver_ready": self.driver_ready, "too_small": self.outbox.too_small() });
        json!({ "multiport": self.multiport, "ports": ports, "refused": self.refused, "messages": talk })
    }
}
