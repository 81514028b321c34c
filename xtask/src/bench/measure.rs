//! The measurements: rounds through all back ends.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contender::{Contender, Places};
use super::front::{Driver, FrontEnd, Job, Sample, Subject, Wait};
use super::placement::{self, Class};
use super::process::{Pins, Running};
use super::target::{Files, Target};
use crate::peers::Fio;
use crate::workspace::Workspace;

/// How long a back end may take to make its socket: some fetch their memory first.
const PATIENCE: Duration = Duration::from_secs(20);

/// All that a measurement needs.
pub(super) struct Bench<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) front: FrontEnd,
    pub(super) fio: Option<Fio>,
    pub(super) contenders: Vec<Contender>,
    pub(super) jobs: Vec<Job>,
    pub(super) waits: Vec<Wait>,
    pub(super) seconds: f64,
    pub(super) pins: Pins,
    pub(super) files: Files,
}

/// What was measured: by job, way of waiting, and contender, their places in [`Bench`].
pub(super) type Runs = BTreeMap<(usize, Wait, usize), Vec<(Option<Class>, Sample)>>;

/// A back end that runs.
pub(super) struct BackEnd {
    running: Running,
    socket: PathBuf,
    /// From its start to the first connection that it took, if one was tried, else to its socket.
    pub(super) ready: Duration,
}

impl BackEnd {
    /// Whether it has ended.
    fn is_gone(&mut self) -> bool {
        self.running.ended().is_ok_and(|status| status.is_some())
    }

    /// CPU time so far, in seconds.
    pub(super) fn cpu(&self) -> f64 {
        self.running.cpu()
    }

    /// The process that does the work.
    pub(super) fn worker(&self) -> u32 {
        self.running.worker()
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.running.stop();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Bench<'_> {
    /// Measures all contenders, `rounds` times.
    pub(super) fn measure(&self, target: Target, rounds: u32) -> Runs {
        let mut runs = Runs::new();
        for round in 1..=rounds {
            for queues in [1, 2] {
                for (index, contender) in self.contenders.iter().enumerate() {
                    if contender.has(target) && self.jobs.iter().any(|job| job.queues == queues) {
                        eprintln!("{}, round {round}: {}, queues: {queues}", target.name(), contender.name);
                        for &wait in &self.waits {
                            self.measure_one(target, queues, wait, index, contender, &mut runs);
                        }
                    }
                }
            }
        }
        runs
    }

    fn measure_one(
        &self,
        target: Target,
        queues: u16,
        wait: Wait,
        index: usize,
        contender: &Contender,
        runs: &mut Runs,
    ) {
        let jobs: Vec<_> = self.jobs.iter().enumerate().filter(|(_, job)| job.queues == queues).collect();
        if !jobs.iter().any(|(_, job)| job.is_for(wait)) || (contender.is_native() && wait == Wait::Poll) {
            return;
        }
        let mut back_end = match self.start(target, queues, contender, false) {
            Ok(back_end) => back_end,
            Err(error) => return eprintln!("  {}: {error:#}", contender.name),
        };
        let mut before = placement::look(&self.pins);
        for (number, &job) in jobs {
            // Some end with their first connection.
            if back_end.as_mut().is_some_and(BackEnd::is_gone) {
                back_end = match self.start(target, queues, contender, false) {
                    Ok(back_end) => back_end,
                    Err(error) => return eprintln!("  {}: {error:#}", contender.name),
                };
            }
            match self.sample(target, job, wait, back_end.as_ref()) {
                Ok(sample) => {
                    let after = placement::look(&self.pins);
                    let class = before.filter(|_| before == after);
                    before = after;
                    runs.entry((number, wait, index)).or_default().push((class, sample));
                }
                Err(error) => {
                    eprintln!("  {}, {}, {}: {error:#}", contender.name, job.name, wait.name());
                    break;
                }
            }
        }
        if let Some(back_end) = back_end {
            back_end.stop();
        }
    }

    fn sample(&self, target: Target, job: Job, wait: Wait, back_end: Option<&BackEnd>) -> Result<Sample> {
        let file = self.files.path(target);
        let subject = match (back_end, &file) {
            (Some(back_end), _) => Subject::Socket(&back_end.socket),
            (None, Some(file)) => Subject::File(file, target == Target::Direct),
            (None, None) => bail!("there is no file"),
        };
        let cpu = back_end.map(BackEnd::cpu);
        let mut sample = self.driver().run(job, wait, subject)?;
        if let (Some(back_end), Some(before)) = (back_end, cpu)
            && sample.requests > 0.0
        {
            sample.back = (back_end.cpu() - before) * 1e6 / sample.requests;
        }
        Ok(sample)
    }

    /// What starts front ends.
    pub(super) fn driver(&self) -> Driver<'_> {
        Driver {
            workspace: self.workspace,
            front: self.front,
            fio: self.fio.as_ref(),
            pins: self.pins,
            directory: self.files.directory(),
            seconds: self.seconds,
        }
    }

    /// Starts a contender, and waits for its socket, or until it takes a connection; `None` for the file itself.
    pub(super) fn start(
        &self,
        target: Target,
        queues: u16,
        contender: &Contender,
        connect: bool,
    ) -> Result<Option<BackEnd>> {
        let Some(start) = contender.start(target) else { return Ok(None) };
        let directory = self.files.directory();
        let socket = directory.join("disk.sock");
        let cpu = self.pins.back;
        let file = self.files.path(target);
        let places = Places { directory, socket: &socket, file, queues, cpu };
        let command = start.command(&places)?;
        // Left behind by one that was killed.
        for stale in [&socket, &directory.join("disk.sock.rpc")] {
            let _ = std::fs::remove_file(stale);
        }
        let log = directory.join("back-end.log");
        let began = Instant::now();
        let cpu = (queues == 1 && start.is_pinned).then_some(cpu);
        let mut running = Running::start(self.pins.command(cpu, command), &log)?;
        loop {
            // A connection would be the only one that some take, so it is tried only where asked for.
            if if connect { UnixStream::connect(&socket).is_ok() } else { socket.exists() } {
                break;
            }
            let ended = running.ended()?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing").to_owned();
                bail!("no socket: {last}");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let ready = began.elapsed();
        if !connect {
            // From the name in the directory to the first connection is a moment.
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(BackEnd { running, socket, ready }))
    }
}

/// The middle one of some figures; of two, their mean.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_unstable_by(f64::total_cmp);
    let last = figures.len().checked_sub(1)?;
    let low = figures.get(last / 2).copied()?;
    let high = figures.get(last.div_ceil(2)).copied()?;
    Some(f64::midpoint(low, high))
}

/// What the kernel says, or why it does not.
pub(super) fn told<T>(what: &str, value: Option<T>) -> Result<T> {
    value.with_context(|| format!("the process is gone: its {what} cannot be told"))
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_is_between() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
