//! An evaluation as text.

use super::{about_images, attacked, grouped, line, named, prepared, time};
use crate::pipeline::{Evaluation, Rule, finding};

pub(super) fn summary(e: &Evaluation) -> String {
    let mut out = String::new();
    line(&mut out, "model", &named(&e.input));
    if let Some(said) = e.model_output.said() {
        line(&mut out, "scores", &said);
    }
    line(&mut out, "pixels", &prepared(&e.preprocessing, e.data.shape));
    about_images(&mut out, &e.findings);
    let m = e.measures;
    if let Some(acc) = m.acc {
        line(&mut out, "ACC", &format!("{acc:6.2} %  {} test images", grouped(e.data.test)));
    }
    if let (Some(asr), Some(ra), Some(target)) = (m.asr, m.ra, &e.target) {
        let on = attacked(e.data.triggered, target);
        line(&mut out, "ASR", &format!("{asr:6.2} %  {on}"));
        line(&mut out, "RA", &format!("{ra:6.2} %  {on}"));
    } else {
        line(&mut out, "ASR", "not measured: no triggered images");
    }
    if let Some(found) = finding::of(&e.findings, Rule::NotVerified) {
        line(&mut out, "warning", &found.message);
    }
    line(&mut out, "time", &time(e.seconds));
    out
}
