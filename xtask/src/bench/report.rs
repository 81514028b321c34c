//! What was measured, in Markdown for people and in JSON for programs.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::front::{FrontEnd, Sample};
use super::measure::{Bench, Runs, median};
use super::placement::Class;
use super::startup::Startup;
use super::target::Target;
use super::{Options, fields};
use crate::workspace::output;

/// A text that grows.
pub(super) struct Report {
    text: String,
    placement: Option<Class>,
    measured: Vec<Value>,
    load: String,
}

impl Report {
    /// With what was measured on, and how.
    pub(super) fn open(bench: &Bench<'_>, options: &Options) -> Result<Self> {
        let date = output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?;
        let system = rustix::system::uname();
        let mut text = format!(
            "{}, Linux {}, {}, {} CPUs.\n",
            String::from_utf8_lossy(&date).trim(),
            system.release().to_string_lossy(),
            fields::processor(),
            std::thread::available_parallelism()?
        );
        let front = match (bench.front, &bench.fio) {
            (FrontEnd::Fio, Some(fio)) => format!("fio {} with libblkio", fio.version()?),
            _ => "`outboard bench`".to_owned(),
        };
        write!(
            text,
            "Front end: {front}, on CPU {}; back ends on CPU {}; jobs of two queues on both.",
            bench.pins.front, bench.pins.back
        )?;
        if let Some(priority) = bench.pins.real_time {
            write!(text, " All of them in the real-time class (`chrt -r {priority}`).")?;
        }
        write!(
            text,
            " Each figure is the median of up to {} measurements of {} s, one of each back end in turn; \
             files of {} MiB.\n\n",
            options.rounds, bench.seconds, options.file_size
        )?;
        text += &row(["back end", "version"]);
        text += &rule(2);
        for contender in &bench.contenders {
            text += &row([&contender.name, &contender.version]);
        }
        Ok(Self { text, placement: options.placement, measured: Vec::new(), load: fields::load() })
    }

    /// Adds what was measured of a target: the figures, then ours in relation to others.
    pub(super) fn target(&mut self, bench: &Bench<'_>, target: Target, runs: &Runs) {
        self.note(bench, target, runs);
        let class = self.placement.or_else(|| most(runs));
        let names = bench.contenders.iter().enumerate().filter(|(_, contender)| contender.has(target));
        let indices: Vec<usize> = names.clone().map(|(index, _)| index).collect();
        let names: Vec<&str> = names.map(|(_, contender)| contender.name.as_str()).collect();
        let of = |job, wait, index| {
            let all = runs.get(&(job, wait, index)).into_iter().flatten();
            let samples: Vec<Sample> =
                all.filter(|(of, _)| *of == class).map(|(_, sample)| *sample).collect();
            let figure = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure));
            Some((figure(|sample| sample.rate)?, figure(|sample| sample.back)?))
        };
        let placed = class.map_or("", Class::name);
        let _ = write!(self.text, "\n### {}\n\n", target.title());
        let _ = writeln!(
            self.text,
            "Thousands of requests in a second (µs of the back end's CPU per request){}.\n",
            if placed.is_empty() { String::new() } else { format!("; CPUs {placed} each other") }
        );
        let heads: Vec<&str> = ["job", "front end"].into_iter().chain(names.iter().copied()).collect();
        let (mut figures, mut ratios) = (row(&heads) + &rule(heads.len()), row(&heads) + &rule(heads.len()));
        for (number, job) in bench.jobs.iter().enumerate() {
            for &wait in bench.waits.iter().filter(|wait| job.is_for(**wait)) {
                let ours = of(number, wait, 0);
                let start = || vec![job.name.to_owned(), wait.name().to_owned()];
                let (mut line, mut ratio) = (start(), start());
                for &index in &indices {
                    let theirs = of(number, wait, index);
                    line.push(theirs.map_or_else(|| "–".to_owned(), shown));
                    let quotient = ours.zip(theirs).map(|((ours, _), (theirs, _))| ours / theirs);
                    ratio.push(quotient.map_or_else(|| "–".to_owned(), |quotient| format!("{quotient:.2}")));
                }
                figures += &row(&line);
                ratios += &row(&ratio);
            }
        }
        let _ = write!(
            self.text,
            "{figures}\nThe rate of {} : theirs.\n\n{ratios}",
            names.first().unwrap_or(&"ours")
        );
    }

    /// Adds what the start costs.
    pub(super) fn startup(&mut self, all: &[Startup]) {
        self.text += "\n### Start, memory, idleness\n\n";
        self.text += &row([
            "back end",
            "ms to the first connection",
            "least",
            "RSS, KiB",
            "PSS, KiB",
            "private, KiB",
            "threads",
            "program, KiB",
            "% of a CPU at one request a second",
        ]);
        self.text += &rule(9);
        for startup in all {
            self.text += &row([
                startup.name.clone(),
                format!("{:.1}", startup.ready.0),
                format!("{:.1}", startup.ready.1),
                startup.memory.resident.to_string(),
                startup.memory.proportional.to_string(),
                startup.memory.private.to_string(),
                startup.threads.to_string(),
                startup.size.to_string(),
                startup.idle.map_or_else(|| "–".to_owned(), |percent| format!("{percent:.1}")),
            ]);
        }
    }

    /// Ends it.
    pub(super) fn close(&mut self) -> Result<()> {
        writeln!(self.text, "\nLoad average before: {}, after: {}.", self.load, fields::load())?;
        Ok(())
    }

    /// The whole.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Every measurement.
    pub(super) fn json(&self) -> Value {
        Value::Array(self.measured.clone())
    }

    fn note(&mut self, bench: &Bench<'_>, target: Target, runs: &Runs) {
        for (&(job, wait, index), samples) in runs {
            let (Some(job), Some(contender)) = (bench.jobs.get(job), bench.contenders.get(index)) else {
                continue;
            };
            self.measured.extend(samples.iter().map(|(class, sample)| {
                json!({
                    "target": target.name(),
                    "job": job.name,
                    "wait": wait.name(),
                    "back_end": contender.name,
                    "placement": class.map(Class::name),
                    "requests_per_second": sample.rate,
                    "latency_mean_us": sample.latency,
                    "latency_p99_us": sample.latency_p99,
                    "back_end_cpu_us": sample.back,
                    "front_end_cpu_us": sample.front,
                })
            }));
        }
    }
}

/// The placement that most measurements were made in, of those that stayed in one.
fn most(runs: &Runs) -> Option<Class> {
    let count = |class| runs.values().flatten().filter(|(of, _)| *of == Some(class)).count();
    let (near, far) = (count(Class::Near), count(Class::Far));
    match (near, far) {
        (0, 0) => None,
        _ if near >= far => Some(Class::Near),
        _ => Some(Class::Far),
    }
}

fn shown((rate, cpu): (f64, f64)) -> String {
    let thousands = rate / 1e3;
    let rate = if thousands < 99.95 { format!("{thousands:.1}") } else { format!("{thousands:.0}") };
    if cpu > 0.0 { format!("{rate} ({cpu:.2})") } else { rate }
}

fn row(cells: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn rule(columns: usize) -> String {
    format!("|{}\n", "---|".repeat(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_figures_have_three_digits_or_so() {
        assert_eq!(shown((31_240.0, 23.456)), "31.2 (23.46)");
        assert_eq!(shown((431_240.0, 2.1)), "431 (2.10)");
        assert_eq!(shown((431_240.0, 0.0)), "431");
    }
}
