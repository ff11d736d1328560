//! Available memory and memory use of this process, from `/proc` and the control groups. Returns None where these do
//! not exist (not Linux).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Parses a size in bytes, optionally with a unit. `K`, `M`, `G`, `T` and `KiB` ... `TiB` are powers of 1024, `KB` ...
/// `TB` of 1000; case does not matter.
///
/// # Errors
/// A message with the expected form.
pub fn parse_size(text: &str) -> Result<usize, String> {
    const EXPECTED: &str = "expected a size such as 1GiB, 800MiB, 2G or a number of bytes";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let (prefix, base) = match unit.strip_suffix("ib") {
        Some("") => return Err(EXPECTED.to_owned()),
        Some(prefix) => (prefix, 1024f64),
        None => match unit.strip_suffix('b') {
            Some(prefix) => (prefix, 1000.0),
            None => (unit.as_str(), 1024.0),
        },
    };
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(EXPECTED.to_owned()),
    };
    let bytes = number * base.powi(power);
    // f64 is exact up to 2^53, which is more than any machine has
    if bytes < 9e15 {
        Ok(bytes.round() as usize)
    } else {
        Err("the size is too large; expected less than 9 PB".to_owned())
    }
}

/// Formats bytes: 1073741824 as `1.00 GiB`.
pub fn size(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 0.95 {
        format!("{:.0} KiB", bytes as f64 / 1024.0)
    } else if mib < 999.5 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.2} GiB", mib / 1024.0)
    }
}

/// Bytes that this process can still allocate without swapping or being killed: the system's available memory, limited
/// by the control groups. None if unknown.
pub fn available() -> Option<usize> {
    available_in(&|path| fs::read_to_string(path).ok())
}

/// Resident memory of this process in bytes. None if unknown.
pub fn resident() -> Option<usize> {
    of_status(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Peak resident memory of this process in bytes. None if unknown.
pub fn peak() -> Option<usize> {
    of_status(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Limit if the system does not report its memory: 2 GiB.
const UNKNOWN: usize = 2 << 30;
/// Default limit: 2.875 GiB. Recomputing tapes costs a fifth to a quarter of a training's time.
const MOST: usize = 23 << 27;

/// Bytes that this process may use in all: `limit`, else what it uses now (`now`) plus half of what the system has
/// available, at most 2.875 GiB unless it uses more already.
pub fn allowed(limit: Option<usize>, now: usize) -> usize {
    limit.unwrap_or_else(|| {
        let most = MOST.max(now);
        available().map_or(UNKNOWN.max(now), |left| now.saturating_add(left / 2)).min(most)
    })
}

/// A line `KEY 123 kB` of `/proc/self/status` or `/proc/meminfo`, in bytes.
fn of_status(text: &str, key: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: usize = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// [`available`] with an injected file reader.
fn available_in(read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let system = read(Path::new("/proc/meminfo")).and_then(|text| of_status(&text, "MemAvailable:"));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let groups = groups.lines().filter_map(|line| group_of(line, read)).min();
    system.into_iter().chain(groups).min()
}

/// Memory left by a line of `/proc/self/cgroup` (`hierarchy:controllers:path`): the minimum over the group and its
/// ancestors. In a container the path may be the host's while the mounted root is the container's own group, so missing
/// folders are skipped.
fn group_of(line: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let mut parts = line.splitn(3, ':');
    let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, names) = if hierarchy == "0" && controllers.is_empty() {
        ("/sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file "])
    } else if controllers.split(',').any(|c| c == "memory") {
        let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "];
        ("/sys/fs/cgroup/memory", names)
    } else {
        return None;
    };
    let path = PathBuf::from(path.trim_start_matches('/'));
    path.ancestors().filter_map(|group| left(&Path::new(root).join(group), names, read)).min()
}

/// Memory left by one group. Its usage includes inactive file cache, which is reclaimed on demand.
fn left(
    folder: &Path,
    [limit, used, cached]: [&str; 3],
    read: &dyn Fn(&Path) -> Option<String>,
) -> Option<usize> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<usize>().ok();
    let limit = number(limit)?; // "max" is not a number: no limit
    let statistics = read(&folder.join("memory.stat")).unwrap_or_default();
    let cached = statistics.lines().find_map(|l| l.strip_prefix(cached)?.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(number(used)?.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let all = [
            ("1GiB", 1 << 30),
            ("800MiB", 800 << 20),
            ("2G", 2 << 30),
            ("1.5 gib", 3 << 29),
            ("1GB", 1_000_000_000),
            ("12345", 12_345),
            ("64k", 65_536),
            ("7B", 7),
            ("0", 0),
        ];
        for (text, bytes) in all {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GiB", "-1", "1XiB", "1ib", "one", "1.2.3M", "nan", "1e9", "99999999T", "1G G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([4_096, 180 << 20, 3 << 29].map(size), ["4 KiB", "180 MiB", "1.50 GiB"]);
    }

    fn files<'a>(files: &'a [(&str, &str)]) -> impl Fn(&Path) -> Option<String> + 'a {
        |path| files.iter().find(|f| Path::new(f.0) == path).map(|f| f.1.to_owned())
    }

    const MEMINFO: (&str, &str) =
        ("/proc/meminfo", "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:    4000 kB\n");

    #[test]
    fn without_groups_it_is_what_the_system_has() {
        assert_eq!(available_in(&files(&[MEMINFO])), Some(4000 * 1024));
        assert_eq!(available_in(&files(&[])), None);
        let odd = [("/proc/meminfo", "MemAvailable: lots\n"), ("/proc/self/cgroup", "nonsense\n0::\n")];
        assert_eq!(available_in(&files(&odd)), None);
    }

    #[test]
    fn a_group_of_version_2_limits_and_so_does_the_one_around_it() {
        let at = |inner: &'static str, outer: &'static str| {
            let all = [
                MEMINFO,
                ("/proc/self/cgroup", "0::/a/b\n"),
                ("/sys/fs/cgroup/a/b/memory.max", inner),
                ("/sys/fs/cgroup/a/b/memory.current", "500000\n"),
                ("/sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 400000\n"),
                ("/sys/fs/cgroup/a/memory.max", outer),
                ("/sys/fs/cgroup/a/memory.current", "600000\n"),
            ];
            available_in(&files(&all))
        };
        assert_eq!(at("max\n", "max\n"), Some(4000 * 1024));
        assert_eq!(at("1000000\n", "max\n"), Some(900_000));
        assert_eq!(at("1000000\n", "700000\n"), Some(100_000));
        assert_eq!(at("max\n", "10\n"), Some(0));
    }

    #[test]
    fn a_group_of_version_1_limits() {
        let all = [
            MEMINFO,
            ("/proc/self/cgroup", "9:cpu,cpuacct:/x\n4:memory:/of/the/host\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 1000\n"),
        ];
        assert_eq!(available_in(&files(&all)), Some(501_000));
        let unlimited = [all[0], all[1], (all[2].0, "9223372036854771712\n"), all[3]];
        assert_eq!(available_in(&files(&unlimited)), Some(4000 * 1024));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen() {
        let now = resident().unwrap();
        assert!(now > 1 << 20 && peak().unwrap() >= now);
        assert!(available().unwrap() > 1 << 20);
    }
}
