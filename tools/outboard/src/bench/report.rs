//! What the measurements say: text for people, JSON for programs.
#![allow(clippy::print_stdout, reason = "this is the program's output")]

use serde_json::{Value, json};

use super::figures::{Figures, PERCENTILES};
use super::versus::{Measured, Ratio};

/// Prints a line.
pub(super) fn line(text: &str) {
    println!("{text}");
}

/// Prints the figures of all back ends, and the ratios of the first one to the others.
pub(super) fn print(device: &str, title: &str, all: &[Measured]) {
    println!("{title}");
    for measured in all {
        let count = measured.rounds.len();
        let rounds = if count > 1 { format!("; the median of {count} rounds") } else { String::new() };
        match measured.rounds.first().and_then(|round| round.back) {
            Some((pid, _)) => println!("{} (process {pid}){rounds}", measured.name),
            None => {
                println!("{} (its process is not known, so neither is what it takes){rounds}", measured.name);
            }
        }
        match measured.rounds.as_slice() {
            [round] => figures(device, round),
            _ => medians(&measured.medians()),
        }
    }
    if let Some((first, others)) = all.split_first() {
        for other in others {
            println!("{} : {}, the median of the rounds' ratios (and their range)", first.name, other.name);
            for (name, Ratio { median, min, max }) in first.ratios(other) {
                println!("  {:<28} {median:>8.3} ({min:.3} .. {max:.3})", label(name));
            }
        }
    }
}

fn figures(device: &str, round: &Figures) {
    let seconds = round.elapsed.as_secs_f64();
    let rate = |requests: u64, bytes: u64| {
        let (requests, bytes) = (round.per_second(requests) / 1e3, round.per_second(bytes) / 1e6);
        match device {
            "net" => format!("{requests:>10.1} k packets/s {:>10.1} Mbit/s", bytes * 8.0),
            "input" => format!("{requests:>10.1} k requests/s {:>10.1} k events/s", bytes * 1e3 / 8.0),
            _ => format!("{requests:>10.1} k requests/s {bytes:>10.1} MB/s"),
        }
    };
    println!(
        "  rate        {}   ({} requests in {seconds:.3} s)",
        rate(round.requests(), round.bytes()),
        round.requests()
    );
    let both = round.ways.iter().all(|way| way.requests > 0);
    for (name, way) in ["in", "out"].into_iter().zip(&round.ways).filter(|_| both) {
        println!("    {name:<9} {}", rate(way.requests, way.bytes));
    }
    if round.flushes > 0 {
        println!("    flushes   {:>10}", round.flushes);
    }
    if round.lost > 0 {
        println!("    lost      {:>10}", round.lost);
    }
    let every = match round.timed_every {
        1 => String::new(),
        n => format!("   (one request in {n} was timed)"),
    };
    println!("  latency us  {}{every}", latency(&round.latency()));
    for (name, way) in ["in", "out"].into_iter().zip(&round.ways).filter(|_| both) {
        println!("    {name:<9} {}", latency(&way.latency));
    }
    let cpu = |seconds: f64| {
        let (each, share) = (round.per_request(seconds * 1e6), seconds / round.elapsed.as_secs_f64() * 100.0);
        format!("{each:>8.3} us CPU per request ({share:.0} % of a CPU)")
    };
    if let Some((_, usage)) = round.back {
        let switches = round.per_request(usage.switches as f64);
        println!("  back end    {}, {switches:.4} context switches", cpu(usage.cpu.as_secs_f64()));
    }
    println!("  front end   {}", cpu(round.front.as_secs_f64()));
    let (kicks, calls) = (round.per_request(round.kicks as f64), round.per_request(round.calls as f64));
    println!("  signals     {kicks:>8.4} kicks and {calls:.4} calls per request");
}

fn latency(latency: &hdrhistogram::Histogram<u64>) -> String {
    if latency.is_empty() {
        return "not timed".to_owned();
    }
    let mut text = String::new();
    for (name, at) in PERCENTILES {
        text += &format!("{name} {:.1}  ", latency.value_at_quantile(at / 100.0) as f64 / 1e3);
    }
    text + &format!("max {:.1}  mean {:.2}", latency.max() as f64 / 1e3, latency.mean() / 1e3)
}

fn medians(medians: &[(&'static str, f64)]) {
    for &(name, value) in medians {
        let shown = match name {
            "requests_per_second" => format!("{:.1} k", value / 1e3),
            "bytes_per_second" => format!("{:.1} M", value / 1e6),
            _ => format!("{value:.4}"),
        };
        println!("  {:<28} {shown:>12}", label(name));
    }
}

/// What people call a figure.
fn label(name: &str) -> &str {
    match name {
        "requests_per_second" => "requests/s",
        "bytes_per_second" => "bytes/s",
        "latency_mean_us" => "latency, mean, us",
        "latency_p50_us" => "latency, p50, us",
        "latency_p99_us" => "latency, p99, us",
        "latency_p99.9_us" => "latency, p99.9, us",
        "back_end_cpu_us" => "back end, us CPU/request",
        "back_end_switches" => "back end, switches/request",
        "front_end_cpu_us" => "front end, us CPU/request",
        "kicks" => "kicks/request",
        "calls" => "calls/request",
        other => other,
    }
}

/// Prints the same as one JSON object.
pub(super) fn print_json(device: &str, job: &Value, all: &[Measured]) {
    let targets: Vec<Value> = all
        .iter()
        .map(|measured| {
            let medians: serde_json::Map<_, _> =
                measured.medians().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            let rounds: Vec<Value> = measured.rounds.iter().map(Figures::json).collect();
            json!({ "name": measured.name, "median": medians, "rounds": rounds })
        })
        .collect();
    let ratios: Vec<Value> = all.split_first().map_or_else(Vec::new, |(first, others)| {
        let one = |other: &Measured| {
            let figures: serde_json::Map<_, _> = first
                .ratios(other)
                .into_iter()
                .map(|(name, ratio)| (name.to_owned(), json!(ratio)))
                .collect();
            json!({ "of": first.name, "to": other.name, "figures": figures })
        };
        others.iter().map(one).collect()
    });
    println!("{}", json!({ "device": device, "job": job, "targets": targets, "ratios": ratios }));
}
