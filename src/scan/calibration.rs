//! Scores of networks without a backdoor, to compare those of a scan with. The numbers are in `calibration.csv`, a row
//! per network and a column per way; after a way is added, nothing is calibrated until its column is there.

use std::fmt;

use super::{
    findings::Findings,
    list::WAYS,
    settings::{IMAGES, IN_ALL},
};

pub use super::settings::{LEAST_CLASSES, STANDS_OUT};

/// Classes of the networks in the table.
pub const CLASSES: usize = 10;

/// How the sites of the networks in the table were chosen: by [`crate::site::preferred`].
pub const SITE_RULE: &str = "preferred";

/// Written by `benches/scan.py --calibrate`.
const TABLE: &str = include_str!("calibration.csv");

/// A network without a backdoor.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanNetwork {
    /// Name in `benches/cases_clean.json`; empty if the record does not tell which of several networks it was.
    pub network: String,
    pub family: String,
    /// The highest score of any class by any way.
    pub most: f64,
    /// The highest score of any class by each way of the table; None if only `most` was recorded.
    pub ways: Vec<Option<f64>>,
}

/// The table of networks without a backdoor.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Names of the ways that the networks were scanned with.
    pub ways: Vec<String>,
    pub networks: Vec<CleanNetwork>,
}

/// Why scores are not comparable with the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outside {
    /// The site was chosen by another rule.
    Site,
    /// The model has this number of classes.
    Classes(usize),
    /// This number of images of all classes was used.
    Images(usize),
    /// Ways missing from the table, or of the table but not measured.
    Ways(Vec<String>),
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site => {
                write!(f, "the reference networks were scanned at their default sites, not at a chosen one")
            }
            Self::Classes(n) => {
                write!(f, "the reference networks have {CLASSES} classes, this one has {n}")
            }
            Self::Images(n) => {
                write!(
                    f,
                    "the reference networks were scanned with {IN_ALL} images, {IMAGES} per class, this one with {n}"
                )
            }
            Self::Ways(names) => {
                write!(f, "the reference networks were scanned by other ways: {}", names.join(", "))
            }
        }
    }
}

impl Calibration {
    /// The committed table. None if it is malformed, which a test rules out.
    pub fn table() -> Option<Self> {
        let mut lines = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let head = lines.next()?.strip_prefix("network,family,most,")?;
        let ways: Vec<String> = head.split(',').map(str::to_owned).collect();
        let read = |line: &str| {
            let mut cells = line.split(',');
            let mut cell = || cells.next();
            let (network, family) = (cell()?.to_owned(), cell()?.to_owned());
            let most = cell()?.parse().ok()?;
            let ways = cells.map(|cell| cell.parse().ok()).collect::<Vec<Option<f64>>>();
            Some(CleanNetwork { network, family, most, ways })
        };
        Some(Self { ways, networks: lines.map(read).collect::<Option<_>>()? })
    }

    /// Whether these findings, at a site chosen by `site_rule`, are comparable with the table.
    ///
    /// # Errors
    /// The first condition that differs.
    pub fn applies(&self, findings: &Findings, site_rule: &str) -> Result<(), Outside> {
        if site_rule != SITE_RULE {
            return Err(Outside::Site);
        }
        if findings.scores.len() != CLASSES {
            return Err(Outside::Classes(findings.scores.len()));
        }
        if findings.images != IMAGES || findings.in_all < IN_ALL {
            return Err(Outside::Images(findings.in_all));
        }
        let measured: Vec<&str> = findings.ways.iter().map(|way| way.way.name()).collect();
        let missing = measured.iter().filter(|name| !self.ways.iter().any(|way| way == *name));
        let left_out = self.ways.iter().map(String::as_str).filter(|way| !measured.contains(way));
        let other: Vec<String> = missing.copied().chain(left_out).map(str::to_owned).collect();
        if other.is_empty() { Ok(()) } else { Err(Outside::Ways(other)) }
    }

    /// Number of networks in the table, and of those whose highest score is at least `score`.
    pub fn as_high(&self, score: f64) -> (usize, usize) {
        (self.networks.len(), self.networks.iter().filter(|clean| clean.most >= score).count())
    }

    /// Whether the table has a column for each of [`WAYS`].
    pub fn is_complete(&self) -> bool {
        WAYS.iter().all(|way| self.ways.iter().any(|name| name == way.name()))
    }
}

/// One-sided upper 95 % confidence bound of a rate in [0, 1], from `hits` of `of` trials (Clopper and Pearson,
/// Biometrika 26, 1934).
pub fn upper_bound(hits: usize, of: usize) -> f64 {
    if hits >= of {
        return 1.0;
    }
    // the probability of at most `hits` falls as the rate grows
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
    use super::{super::findings::samples, *};

    #[test]
    fn the_table_can_be_read_and_has_a_column_for_each_way() {
        let table = Calibration::table().unwrap();
        assert!(table.is_complete(), "a way was added: scan the clean networks again (docs/adding-ways.md)");
        for clean in &table.networks {
            assert_eq!(clean.ways.len(), table.ways.len(), "{clean:?}");
            // the score of a network with recorded ways is the highest of them
            if clean.ways.iter().all(Option::is_some) {
                let most = clean.ways.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
                assert!((most - clean.most).abs() < 0.006, "{clean:?}");
            }
        }
        assert_eq!(table.as_high(0.0), (24, 24));
        assert_eq!(table.as_high(2.93), (24, 1));
        assert_eq!(table.as_high(STANDS_OUT), (24, 0));
    }

    #[test]
    fn other_conditions_are_reported() {
        let table = Calibration::table().unwrap();
        let even: Vec<f64> = (0..10).map(|i| f64::from(i % 3)).collect();
        let all: Vec<(&str, &[f64])> = WAYS.iter().map(|way| (way.name(), even.as_slice())).collect();
        let found = samples::of(&all);
        assert_eq!(table.applies(&found, SITE_RULE), Ok(()));
        assert_eq!(table.applies(&found, "chosen"), Err(Outside::Site));
        let few = Findings { in_all: 40, ..found.clone() };
        assert_eq!(table.applies(&few, SITE_RULE), Err(Outside::Images(40)));
        let fewer = samples::of(&all[1..]);
        assert_eq!(table.applies(&fewer, SITE_RULE), Err(Outside::Ways(vec![all[0].0.to_owned()])));
        let classes: Vec<(&str, &[f64])> = WAYS.iter().map(|way| (way.name(), &even[..7])).collect();
        assert_eq!(table.applies(&samples::of(&classes), SITE_RULE), Err(Outside::Classes(7)));
    }

    #[test]
    fn bounds_match_published_tables() {
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
