//! The data half: commands and their answers, and what the guest is told unasked. The guest's bytes are hostile; the agent
//! judges them.
//!
//! Commands on what is simulated are carried out at once. As soon as anything is the host's, whose attributes may take
//! their time, all are carried out on a thread of their own, in their order, and sensors are looked at there. A queue that
//! stops has those back that were not begun.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use outboard_device::defs::scmi::{CMDQ, EVENTQ};
use outboard_device::{Chain, Cx, DeviceError, Errands, Flow, Handler, Inbox, Outbox, QueueId, SourceId};
use outboard_scmi_protocols::Point;

use crate::backlog::UNTOUCHED;
use crate::shared::Shared;

/// The most that is read of a command: more than any has.
const LONGEST_COMMAND: usize = 256;
/// The most that is answered, however much room there is.
const LONGEST_ANSWER: usize = 4096;
/// The timer of the sensors.
const SENSORS: SourceId = SourceId(0);

/// What the thread for slow things does.
pub(crate) enum Job {
    /// Carry out the oldest command, if it still waits.
    Command,
    /// Look at the sensors.
    Look,
    /// Ask the host what points are, and let go of what tells somebody of it.
    Read(Vec<Point>, Sender<()>),
}

/// Starts the thread for slow things.
pub(crate) fn errands(shared: &Arc<Shared>) -> Result<Errands<Job>, DeviceError> {
    let (shared, mut answer) = (Arc::clone(shared), Vec::with_capacity(LONGEST_ANSWER));
    Errands::start("scmi", move |job| match job {
        Job::Command => {
            let Some(mut ticket) = shared.backlog.take() else { return };
            let served = ticket.chain().map_or(Ok(()), |chain| serve(&shared, chain, &mut answer));
            ticket.finish(served.map(|()| 0));
        }
        Job::Look => {
            shared.look();
            shared.end_look();
        }
        Job::Read(points, _told) => shared.read(&points),
    })
}

/// Carries out the command of a chain.
fn serve(shared: &Shared, chain: &mut Chain, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut command = [0; LONGEST_COMMAND];
    let len = chain.readable_len().min(LONGEST_COMMAND);
    let room = chain.writable_len().min(LONGEST_ANSWER);
    let command = command.get_mut(..len).unwrap_or_default();
    chain.read_exact(command).map_err(io::Error::other)?;
    shared.carry_out(command, room, answer);
    chain.write_all(answer).map_err(io::Error::other)
}

/// The data half of the SCMI device.
pub struct ScmiHandler {
    shared: Arc<Shared>,
    /// Of a device on which something is the host's.
    errands: Option<Errands<Job>>,
    answer: Vec<u8>,
    outbox: Outbox,
    /// There are chains left for a notice.
    more: bool,
    bell: Option<Inbox<()>>,
    rung: Vec<()>,
}

impl ScmiHandler {
    pub(crate) fn new(shared: Arc<Shared>, errands: Option<Errands<Job>>) -> Self {
        let outbox = Outbox::new(QueueId(EVENTQ), 1);
        Self {
            shared,
            errands,
            answer: Vec::with_capacity(LONGEST_ANSWER),
            outbox,
            more: false,
            bell: None,
            rung: Vec::new(),
        }
    }

    /// Has the sensors looked at when it is time.
    fn plan(&self, cx: &mut Cx<'_, ()>) {
        if let Some(delay) = self.shared.next_look() {
            cx.after(delay, SENSORS);
        }
    }

    /// A queue rests: commands that were not begun wait in it.
    fn rest_of(&self, queue: QueueId) {
        if queue == QueueId(CMDQ) {
            self.shared.backlog.give_back();
        }
    }
}

impl Handler for ScmiHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        self.bell = Some(self.shared.bell.open(cx));
        self.plan(cx);
        Ok(())
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        if let Some(errands) = &self.errands {
            if self.shared.backlog.put(cx.defer(chain, ())) {
                errands.run(Job::Command);
            }
            return Flow::Next;
        }
        let served = serve(&self.shared, &mut chain, &mut self.answer).map(|()| 0);
        self.finished(chain, (), served, cx)
    }

    fn finished(&mut self, chain: Chain, (): (), served: io::Result<u32>, cx: &mut Cx<'_, ()>) -> Flow {
        match served {
            Ok(UNTOUCHED) => {
                cx.put_back(chain);
                return Flow::Next;
            }
            Ok(_) => {}
            Err(error) => cx.warn("a command was not answered", error),
        }
        self.plan(cx);
        cx.done(chain)
    }

    fn event(&mut self, _: SourceId, cx: &mut Cx<'_, ()>) {
        match &self.errands {
            // The next time is planned when it has looked.
            Some(errands) if self.shared.begin_look() => errands.run(Job::Look),
            Some(_) => {}
            None => {
                self.shared.look();
                self.plan(cx);
            }
        }
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        self.outbox.turned(queue, on, cx);
        if !on {
            self.rest_of(queue);
        }
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        if let Some(bell) = &mut self.bell {
            bell.take(&mut self.rung);
        }
        let mut busy = !self.rung.is_empty();
        if busy {
            self.rung.clear();
            self.plan(cx);
        }
        // One at a time, which stays with the others until it is sent: what waits longer may be outdated by then, or be for
        // the next handler.
        let outbox = &mut self.outbox;
        while self.shared.give_notice(|notice| {
            let put = outbox.put(&[&notice.bytes]);
            busy |= put && outbox.work(cx);
            put && outbox.is_empty()
        }) {}
        self.more = outbox.is_ready();
        outbox.clear();
        busy
    }

    fn is_ready(&self) -> bool {
        self.more || self.bell.as_ref().is_some_and(Inbox::is_ready)
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.outbox.turned(queue, false, cx);
        self.rest_of(queue);
    }
}
