//! How suspicious networks without a backdoor look: the numbers that a scan's scores are held against. Measured, see
//! `benches/results/2026-11-27-xeon-avx512-4a8060d`; of networks of other families and data nothing is known.

/// A class with this score stands out.
pub const STANDS_OUT: f64 = 4.0;

/// With fewer classes than these, none can stand out: what lies in the middle says too little about how far classes lie apart.
/// Of two, one is always the median.
pub const LEAST_CLASSES: usize = 5;

/// The highest score of each of 24 networks without a backdoor: PreAct-ResNet18 (thirteen) and VGG16-BN (eleven, of which four
/// while the default site of such networks lay one pooling later), width 16, CIFAR-10 (`benches/scan.py benches/cases_clean.json`).
pub const SCORES: [f64; 24] = [
    1.61, 1.67, 1.67, 1.68, 1.85, 1.88, 1.90, 1.91, 1.96, 1.96, 1.97, 1.97, 2.10, 2.10, 2.30, 2.30, 2.37,
    2.37, 2.45, 2.46, 2.53, 2.65, 2.67, 2.93,
];

/// The largest rate at which `hits` or fewer of `of` are still seen in one of twenty times: a one-sided bound of 95 %
/// confidence (Clopper and Pearson, Biometrika 26, 1934).
pub fn upper_bound(hits: usize, of: usize) -> f64 {
    if hits >= of {
        return 1.0;
    }
    // the chance of at most `hits` falls as the rate grows
    let at_most = |rate: f64| -> f64 {
        let mut term = (1.0 - rate).powi(of as i32);
        let mut sum = term;
        for k in 0..hits {
            term *= (of - k) as f64 / (k + 1) as f64 * rate / (1.0 - rate);
            sum += term;
        }
        sum
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_most(middle) > 0.05 { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_tables() {
        // no hit: 1 - 0.05^(1/n); the others from scipy.stats.beta.ppf(0.95, k + 1, n - k)
        for (hits, of, bound) in [
            (0, 16, 0.170_750),
            (0, 20, 0.139_108),
            (0, 24, 0.117_346),
            (0, 12, 0.220_922),
            (1, 16, 0.263_957),
            (3, 10, 0.606_624),
            (2, 2, 1.0),
        ] {
            assert!(
                (upper_bound(hits, of) - bound).abs() < 1e-5,
                "{hits} of {of}: {}",
                upper_bound(hits, of)
            );
        }
    }
}
