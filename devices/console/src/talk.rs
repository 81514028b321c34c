//! What the driver knows of a port, and what it is still to be told (VIRTIO 1.3, 5.3.6.2). Pure.
//!
//! Theory of operation: what is to be told is a set, not a list. A driver that says the same thing a thousand times is
//! answered once, when it has room for answers; one that takes no messages costs a byte.

use outboard_device::defs::console::{
    CONSOLE_PORT, Control, DEVICE_ADD, PORT_NAME, PORT_OPEN, RESIZE, Resize,
};
use zerocopy::IntoBytes;

use crate::Size;

/// Something that the driver is to be told of a port. In this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Added,
    IsConsole,
    Name,
    Size,
    Closed,
    Open,
}

const ALL: [News; 6] = [News::Added, News::IsConsole, News::Name, News::Size, News::Closed, News::Open];

/// How far driver and device have come with a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Unknown,
    Added,
    Ready,
    Failed,
}

/// What the driver knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Talk {
    stage: Stage,
    /// The driver's side is open.
    pub(crate) guest_open: bool,
    due: u8,
}

impl Talk {
    /// A driver that was here before this program: it knows the port, and uses it.
    pub(crate) fn resumed() -> Self {
        Self { stage: Stage::Ready, guest_open: true, due: 0 }
    }

    /// The driver is to hear of the port.
    pub(crate) fn announce(&mut self) {
        *self = Self { stage: Stage::Added, due: bit(News::Added), guest_open: false };
    }

    /// The driver is ready for the port, or not.
    pub(crate) fn readied(&mut self, ready: bool, news: impl IntoIterator<Item = News>) {
        if self.stage == Stage::Unknown {
            return;
        }
        self.stage = if ready { Stage::Ready } else { Stage::Failed };
        self.due &= bit(News::Added);
        self.guest_open &= ready;
        news.into_iter().for_each(|news| self.tell(news));
    }

    /// Is it used?
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Tells the driver something, if it uses the port. What is closed is not open any more.
    pub(crate) fn tell(&mut self, news: News) {
        if self.is_ready() {
            self.due |= bit(news);
            self.due &= if news == News::Closed { !bit(News::Open) } else { !0 };
        }
    }

    /// Puts what is to be told where `put` has room.
    pub(crate) fn flush(&mut self, mut put: impl FnMut(News) -> bool) {
        let due = self.due;
        for news in ALL.into_iter().filter(|news| due & bit(*news) != 0) {
            if !put(news) {
                return;
            }
            self.due &= !bit(news);
        }
    }
}

fn bit(news: News) -> u8 {
    1 << news as u8
}

/// A message as it goes over the queue.
pub(crate) fn message(id: u32, news: News, name: &str, size: Size, rows_first: bool) -> Vec<u8> {
    let (event, value) = match news {
        News::Added => (DEVICE_ADD, 1),
        News::IsConsole => (CONSOLE_PORT, 1),
        News::Name => (PORT_NAME, 1),
        News::Size => (RESIZE, 1),
        News::Closed => (PORT_OPEN, 0),
        News::Open => (PORT_OPEN, 1),
    };
    let mut bytes = control(id, event, value);
    match news {
        News::Name => bytes.extend(name.as_bytes()),
        News::Size => {
            let (first, second) = if rows_first { (size.rows, size.cols) } else { (size.cols, size.rows) };
            bytes.extend(Resize { cols: first.into(), rows: second.into() }.as_bytes());
        }
        _ => {}
    }
    bytes
}

/// A message that says no more than its value.
pub(crate) fn control(id: u32, event: u16, value: u16) -> Vec<u8> {
    Control { id: id.into(), event: event.into(), value: value.into() }.as_bytes().to_vec()
}
