//! The data half: requests, and the buffers that wait for interrupts.

use outboard_device::defs::gpio::{IRQ_STATUS_INVALID, IRQ_STATUS_VALID, IrqRequest};
use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, QueueId, SourceId, Taken};

use crate::lines::{Lines, Unmasked};
use crate::request::{Outcome, Terms, serve};

/// The queue of buffers that wait for interrupts.
const EVENTS: QueueId = QueueId(1);
/// The chip has seen edges.
const CHIP: SourceId = SourceId(0);

/// The data half of a GPIO controller.
pub struct GpioHandler {
    lines: Taken<Lines>,
    terms: Terms,
    /// For each line the buffer that unmasks it.
    held: Vec<Option<Chain>>,
    edges: Vec<(u16, bool)>,
}

impl GpioHandler {
    pub(crate) fn new(lines: Taken<Lines>, terms: Terms) -> Self {
        let held = terms.read_only.iter().map(|_| None).collect();
        Self { lines, terms, held, edges: Vec::new() }
    }

    /// The buffer of a line goes back, if there is one.
    fn tell(&mut self, line: u16, status: u8, cx: &mut Cx<'_, ()>) {
        if let Some(chain) = self.held.get_mut(usize::from(line)).and_then(Option::take) {
            self.lines.mask(line);
            finish(chain, status, cx);
        }
    }

    /// The driver's buffers will come again.
    fn give_back(&mut self, cx: &mut Cx<'_, ()>) {
        let held: Vec<(usize, Chain)> = self
            .held
            .iter_mut()
            .enumerate()
            .filter_map(|(line, place)| Some((line, place.take()?)))
            .collect();
        for (line, chain) in held {
            self.lines.mask(line as u16);
            cx.put_back(chain);
        }
    }

    fn unmask(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) {
        let line = chain.read_obj::<IrqRequest>().ok().map(|request| request.gpio.get());
        let place = line.and_then(|line| Some((line, self.held.get_mut(usize::from(line))?)));
        let Some((line, place)) = place.filter(|_| self.terms.interrupts && chain.writable_len() > 0) else {
            return finish(chain, IRQ_STATUS_INVALID, cx);
        };
        match self.lines.unmask(line) {
            Unmasked::Held => *place = Some(chain),
            Unmasked::Valid => finish(chain, IRQ_STATUS_VALID, cx),
            Unmasked::Invalid => finish(chain, IRQ_STATUS_INVALID, cx),
        }
    }
}

fn finish(mut chain: Chain, status: u8, cx: &mut Cx<'_, ()>) {
    // Without room the driver sees by the length that nothing is said.
    let _ = chain.write_obj(&status);
    let _ = cx.done(chain);
}

impl Handler for GpioHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let chip = self.lines.chip().events();
        cx.watch(chip, CHIP).map_err(|error| DeviceError::host("the chip's events", error))
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        if chain.queue() == EVENTS {
            self.unmask(chain, cx);
            return Flow::Next;
        }
        if let Outcome::Masked(line) = serve(&mut chain, &mut self.lines, &self.terms) {
            self.tell(line, IRQ_STATUS_INVALID, cx);
        }
        cx.done(chain)
    }

    fn event(&mut self, _: SourceId, cx: &mut Cx<'_, ()>) {
        let mut edges = std::mem::take(&mut self.edges);
        self.lines.chip().edges(&mut edges);
        for (line, rising) in edges.drain(..) {
            if self.lines.edge(line, rising) {
                self.tell(line, IRQ_STATUS_VALID, cx);
            }
        }
        self.edges = edges;
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if queue == EVENTS && !on {
            self.give_back(cx);
        }
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        if queue == EVENTS {
            self.give_back(cx);
        }
    }
}
