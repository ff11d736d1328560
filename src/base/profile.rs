//! Where the time of a training goes. A [`Profiler`] collects what segments and the trainer hand it; [`Profile`] is what
//! came of it, as data and as a table. Nothing is measured where there is no profiler. The parts are disjoint and what
//! none of them covers is a part of its own, so that the shares add up to the whole.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Rows of the table before the rest becomes one.
const ROWS: usize = 20;

/// Which way an operator was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Values.
    Forward,
    /// Gradients.
    Backward,
}

/// Work of a training that is no operator of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The inserted layer, both ways, and its optimiser.
    Layer,
    /// The losses and their gradients.
    Losses,
    /// The adversary's steps on the pixels.
    Adversary,
    /// Kept values, pixels and tapes of a batch's images; chunks cut and put together.
    Gather,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Losses => "losses",
            Self::Adversary => "adversary update",
            Self::Gather => "gather",
        }
    }
}

/// What one operator did in one direction.
#[derive(Clone, Debug, Default)]
struct Sum {
    node: String,
    operator: String,
    calls: usize,
    time: Duration,
    flops: f64,
    bytes: f64,
}

#[derive(Default)]
struct Sums {
    /// By the place of the (last) node in the file.
    operators: BTreeMap<(usize, Direction), Sum>,
    parts: BTreeMap<Part, Duration>,
}

/// Collects times. Shared by all that is timed; a lock a call is nothing beside what a call does.
#[derive(Default)]
pub struct Profiler(Mutex<Sums>);

impl Profiler {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        // a panic while it was held leaves at worst one call not counted
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operator was run: `node` is its place among the file's nodes, `names` gives its name and operator when it is
    /// first seen. `flops` and `bytes` are those of this call.
    pub fn operator(
        &self,
        (node, direction): (usize, Direction),
        names: impl FnOnce() -> (String, String),
        time: Duration,
        flops: u64,
        bytes: usize,
    ) {
        let mut sums = self.sums();
        let sum = sums.operators.entry((node, direction)).or_insert_with(|| {
            let (node, operator) = names();
            Sum { node, operator, ..Sum::default() }
        });
        sum.calls += 1;
        sum.time += time;
        sum.flops += flops as f64;
        sum.bytes += bytes as f64;
    }

    /// Runs `f` as a piece of `part`.
    pub fn part<T>(&self, part: Part, f: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let out = f();
        *self.sums().parts.entry(part).or_default() += began.elapsed();
        out
    }

    /// What was collected during `seconds` of training, held against `ceilings`.
    pub fn profile(&self, seconds: f64, ceilings: Ceilings) -> Profile {
        let sums = self.sums();
        let share = |s: f64| if seconds > 0.0 { 100.0 * s / seconds } else { 0.0 };
        let row = |(&(_, direction), sum): (&(usize, Direction), &Sum)| {
            let s = sum.time.as_secs_f64();
            let rate = |n: f64| if s > 0.0 { n / s / 1e9 } else { 0.0 };
            let gflops = (sum.flops > 0.0).then(|| rate(sum.flops));
            let gbytes = rate(sum.bytes);
            let of = |rate: f64, most: f64| if most > 0.0 { 100.0 * rate / most } else { 0.0 };
            Operator {
                node: sum.node.clone(),
                operator: sum.operator.clone(),
                direction,
                calls: sum.calls,
                seconds: s,
                share: share(s),
                gflops,
                gbytes,
                of_ceiling: gflops.map_or_else(|| of(gbytes, ceilings.gbytes), |g| of(g, ceilings.gflops)),
            }
        };
        let mut operators: Vec<Operator> = sums.operators.iter().map(row).collect();
        operators.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let mut outside: Vec<Outside> = [Part::Layer, Part::Losses, Part::Adversary, Part::Gather]
            .into_iter()
            .map(|part| {
                let s = sums.parts.get(&part).map_or(0.0, Duration::as_secs_f64);
                Outside { name: part.name().to_owned(), seconds: s, share: share(s) }
            })
            .collect();
        let known: f64 = operators.iter().map(|o| o.seconds).chain(outside.iter().map(|o| o.seconds)).sum();
        let rest = (seconds - known).max(0.0);
        outside.push(Outside { name: "other".to_owned(), seconds: rest, share: share(rest) });
        Profile { seconds, ceilings, operators, outside }
    }
}

/// `f`, timed as a piece of `part` where somebody asks.
pub fn timed<T>(profiler: Option<&Profiler>, part: Part, f: impl FnOnce() -> T) -> T {
    match profiler {
        Some(profiler) => profiler.part(part, f),
        None => f(),
    }
}

/// What this machine reaches on the same threads: what rates are held against. Zeros for a training on a GPU, whose are not
/// measured; shares of them are 0 then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// A large product of matrices by our own kernel (a 1x1 convolution in float32), in 10^9 operations a second, a
    /// multiplication and an addition counted as two.
    pub gflops: f64,
    /// A copy between two blocks of memory larger than the caches, in 10^9 bytes a second, read and written ones
    /// counted.
    pub gbytes: f64,
}

/// Where the time of a training went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The whole training, without the preparation: what shares are of.
    pub seconds: f64,
    /// What rates are held against.
    pub ceilings: Ceilings,
    /// The network's operators, the longest time first.
    pub operators: Vec<Operator>,
    /// What is none of them: `layer`, `losses`, `adversary update`, `gather`, `other`.
    pub outside: Vec<Outside>,
}

/// One operator of the network in one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// Name of the node; of the first, where several run as one.
    pub node: String,
    /// Its operator; all of them, where several run as one: `Conv+BatchNormalization+Relu`.
    pub operator: String,
    /// `forward` or `backward`.
    pub direction: Direction,
    /// Chunks of images it was run on.
    pub calls: usize,
    /// Wall-clock time; a convolution packs its weights in its first call in each direction.
    pub seconds: f64,
    /// Of the training, in percent.
    pub share: f64,
    /// 10^9 operations a second, a multiplication and an addition counted as two, those of the plain sum where fewer are
    /// computed (3x3 convolutions); None where nothing is multiplied that is worth counting.
    pub gflops: Option<f64>,
    /// 10^9 bytes a second of values, gradients and what is kept for these; weights are not counted.
    pub gbytes: f64,
    /// Of [`Ceilings::gflops`] where there is `gflops`, else `gbytes` of [`Ceilings::gbytes`]; in percent. Above 100
    /// where a convolution computes fewer products than counted, or values stay in a cache.
    pub of_ceiling: f64,
}

/// Time of a training outside the network's operators.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// What it was.
    pub name: String,
    /// Wall-clock time.
    pub seconds: f64,
    /// Of the training, in percent.
    pub share: f64,
}

impl Profile {
    /// The table: the longest operators, the rest as one line, what is outside of them, the whole.
    pub fn table(&self) -> String {
        let mut out = String::from("time of the training by operator\n");
        out.push_str("  seconds   share   calls  GFLOP/s     GB/s  of ceiling\n");
        let shown = if self.operators.len() > ROWS + 1 { ROWS } else { self.operators.len() };
        let (first, more) = self.operators.split_at(shown);
        for o in first {
            let gflops = o.gflops.map_or_else(|| "-".to_owned(), |g| format!("{g:.1}"));
            let direction = match o.direction {
                Direction::Forward => "forward",
                Direction::Backward => "backward",
            };
            let _ = writeln!(
                out,
                "{:9.3} {:5.1} % {:7} {gflops:>8} {:8.1} {:9.0} %  {direction:<8}  {} ({})",
                o.seconds, o.share, o.calls, o.gbytes, o.of_ceiling, o.node, o.operator
            );
        }
        if !more.is_empty() {
            let sum = |f: fn(&Operator) -> f64| more.iter().map(f).sum::<f64>();
            let calls: usize = more.iter().map(|o| o.calls).sum();
            let (seconds, share) = (sum(|o| o.seconds), sum(|o| o.share));
            let _ = writeln!(out, "{seconds:9.3} {share:5.1} % {calls:7}  {} more", more.len());
        }
        for o in &self.outside {
            let _ = writeln!(out, "{:9.3} {:5.1} %          {}", o.seconds, o.share, o.name);
        }
        let Ceilings { gflops, gbytes } = self.ceilings;
        let _ = writeln!(out, "{:9.3} 100.0 %          the whole training", self.seconds);
        if gflops == 0.0 {
            out.push_str("no ceilings: those of a GPU are not measured\n");
            return out;
        }
        let _ = writeln!(
            out,
            "ceilings measured here: a product of matrices {gflops:.1} GFLOP/s, a copy of memory {gbytes:.1} GB/s; \
             above 100 % where a 3x3 convolution needs fewer products than are counted or values stay in a cache"
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(operators: usize) -> Profile {
        let profiler = Profiler::default();
        for node in 0..operators {
            let names = || (format!("node{node}"), "Conv+Relu".to_owned());
            let time = Duration::from_millis(10 + node as u64);
            let flops = if node == 0 { 0 } else { 2_000_000_000 };
            profiler.operator((node, Direction::Forward), names, time, flops, 1_000_000);
            profiler.operator((node, Direction::Forward), || unreachable!(), time, flops, 1_000_000);
        }
        profiler.part(Part::Layer, || std::thread::sleep(Duration::from_millis(2)));
        profiler.profile(5.0, Ceilings { gflops: 400.0, gbytes: 10.0 })
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let p = collected(30);
        let all = p.operators.iter().map(|o| o.share).chain(p.outside.iter().map(|o| o.share));
        assert!((all.sum::<f64>() - 100.0).abs() < 1e-6);
        assert!(p.operators.is_sorted_by(|a, b| a.seconds >= b.seconds));
        assert!(p.outside.iter().any(|o| o.name == "layer" && o.seconds >= 0.002));
        let slowest = &p.operators[0];
        assert_eq!((slowest.calls, slowest.node.as_str()), (2, "node29"));
        let gflops = slowest.gflops.unwrap();
        assert!((gflops - 4.0 / 0.078).abs() < 1e-6 && (slowest.of_ceiling - gflops / 4.0).abs() < 1e-6);
        // nothing multiplied: bytes stand against the copy
        let plain = p.operators.last().unwrap();
        assert_eq!(plain.gflops, None);
        assert!((plain.of_ceiling - 10.0 * plain.gbytes).abs() < 1e-9);
    }

    #[test]
    fn without_ceilings_nothing_is_held_against_any() {
        let p = Profile { ceilings: Ceilings::default(), ..collected(3) };
        assert!(p.table().ends_with("no ceilings: those of a GPU are not measured\n"), "{}", p.table());
    }

    #[test]
    fn the_table_is_cut_and_closes_with_the_whole() {
        let table = collected(30).table();
        assert!(table.contains("node29 (Conv+Relu)") && table.contains("node10 "), "{table}");
        assert!(!table.contains("node9 ") && table.contains("  10 more\n"), "{table}");
        assert!(table.contains("    5.000 100.0 %          the whole training\n"), "{table}");
        // one line more is no reason to cut
        assert!(!collected(21).table().contains("more\n"));
    }

    #[test]
    fn nothing_collected_is_no_fault() {
        let p = Profiler::default().profile(0.0, Ceilings::default());
        assert!(p.operators.is_empty() && p.table().contains("the whole training"));
    }
}
