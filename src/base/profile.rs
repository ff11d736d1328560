//! Time profile of a training. A [`Profiler`] collects times from segments and the trainer; a [`Profile`] is the
//! result, as data and as a table. Without a profiler nothing is measured. The entries are disjoint and `other` is the
//! rest, so that the shares add up to 100 %.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Rows of the table; further operators are summed in one row.
const ROWS: usize = 20;

/// Direction in which an operator ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Values.
    Forward,
    /// Gradients.
    Backward,
}

/// Work of a training outside the network's operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The inserted layer, forward and backward, and its optimiser.
    Layer,
    /// The losses and their gradients.
    Losses,
    /// Updates of the adversarial pixels.
    Adversary,
    /// Gathering a batch's cached values, pixels and tapes; splitting and joining chunks.
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

/// Totals of one operator in one direction.
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
    /// By the index of the (last) node in the file.
    operators: BTreeMap<(usize, Direction), Sum>,
    parts: BTreeMap<Part, Duration>,
}

/// Collects times; shared between threads. The lock of each call is negligible compared to the timed work.
#[derive(Default)]
pub struct Profiler(Mutex<Sums>);

impl Profiler {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        // a panic while it was locked can at worst lose one call
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a call of an operator: `node` is its index in the file; `names`, called once, returns its name and
    /// operator type. `flops` and `bytes` are those of this call.
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

    /// Runs `f` and adds its time to `part`.
    pub fn part<T>(&self, part: Part, f: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let out = f();
        *self.sums().parts.entry(part).or_default() += began.elapsed();
        out
    }

    /// The profile of `seconds` of training, relative to `ceilings`.
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

/// Runs `f`; with a profiler, adds its time to `part`.
pub fn timed<T>(profiler: Option<&Profiler>, part: Part, f: impl FnOnce() -> T) -> T {
    match profiler {
        Some(profiler) => profiler.part(part, f),
        None => f(),
    }
}

/// Peak rates of this machine on the same threads, measured. Not measured for a GPU: zero, as are the shares of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// A large matrix product by this crate's kernel (a 1x1 convolution in float32), in GFLOP/s (a multiplication and
    /// an addition count as two).
    pub gflops: f64,
    /// A copy between two blocks of memory larger than the caches, in GB/s, reads and writes counted.
    pub gbytes: f64,
}

/// Time profile of a training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Wall-clock time of the training without its preparation; 100 % of the shares.
    pub seconds: f64,
    /// Peak rates of the machine.
    pub ceilings: Ceilings,
    /// The network's operators, longest time first.
    pub operators: Vec<Operator>,
    /// Work outside the operators: `layer`, `losses`, `adversary update`, `gather`, `other`.
    pub outside: Vec<Outside>,
}

/// One operator of the network in one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// Name of the node; of the first if several are fused.
    pub node: String,
    /// Its operator; all of them if fused: `Conv+BatchNormalization+Relu`.
    pub operator: String,
    /// `forward` or `backward`.
    pub direction: Direction,
    /// Number of calls (chunks of images).
    pub calls: usize,
    /// Wall-clock seconds; includes packing a convolution's weights in its first call in each direction.
    pub seconds: f64,
    /// Share of the training, in percent.
    pub share: f64,
    /// GFLOP/s of the direct algorithm (Winograd 3x3 convolutions compute fewer); None for operators without a relevant
    /// number of multiplications.
    pub gflops: Option<f64>,
    /// GB/s of values, gradients and saved values; weights are not counted.
    pub gbytes: f64,
    /// `gflops` relative to [`Ceilings::gflops`], else `gbytes` relative to [`Ceilings::gbytes`], in percent. Above
    /// 100 if a convolution computes fewer products than counted or values stay in a cache.
    pub of_ceiling: f64,
}

/// Time of a training outside the network's operators.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// Name of the work.
    pub name: String,
    /// Wall-clock time.
    pub seconds: f64,
    /// Of the training, in percent.
    pub share: f64,
}

impl Profile {
    /// The profile as a table: the slowest operators, the rest in one row, the work outside them, the total.
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
