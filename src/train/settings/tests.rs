use super::*;

fn given(options: &[(&str, &str)]) -> Vec<(&'static Setting, Value)> {
    let one = |(name, text): &(&str, &str)| {
        let setting = Setting::named(name).unwrap();
        (setting, setting.parse(text).unwrap())
    };
    options.iter().map(one).collect()
}

fn with(recipe: Recipe, options: &[(&str, &str)]) -> Result<Settings> {
    Settings::with(recipe, &given(options))
}

fn refused(recipe: Recipe, options: &[(&str, &str)]) -> (&'static str, String) {
    match with(recipe, options).unwrap_err() {
        Error::Setting { field, problem } => (field, problem),
        other => panic!("{other}"),
    }
}

use Recipe::{Default as Own, Published};

#[test]
fn rho_keeps_the_change_per_pixel() {
    let s = Settings::published();
    assert_eq!(s.rho_for([3, 32, 32]), Some(3.0));
    assert_eq!(s.rho_for([3, 64, 64]), Some(6.0));
    assert_eq!(with(Published, &[("rho", "5")]).unwrap().rho_for([3, 64, 64]), Some(5.0));
    assert_eq!(Settings::default().rho_for([3, 64, 64]), Some(1.4));
}

#[test]
fn the_cosine_schedule_falls_from_1_to_0() {
    assert_eq!([0, 5, 10].map(|done| Schedule::Constant.share(done, 10)), [1.0; 3]);
    let [first, half, last] = [0, 5, 10].map(|done| Schedule::Cosine.share(done, 10));
    assert!((first - 1.0).abs() < 1e-12 && (half - 0.5).abs() < 1e-12 && last.abs() < 1e-12);
}

#[test]
fn the_recipes_pass_their_own_checks() {
    for recipe in [Own, Published] {
        recipe.settings().check().unwrap();
        assert_eq!(with(recipe, &[]).unwrap(), recipe.settings());
    }
}

#[test]
fn stated_defaults_are_the_values_used() {
    for setting in SETTINGS {
        for recipe in [Own, Published] {
            let stated =
                setting.show(setting.default_in(recipe).unwrap_or_else(|| panic!("{}", setting.name)));
            // the settings it depends on, unless the recipe chooses them already
            let applies = setting.value(&recipe.settings()).is_some();
            let needed = if applies { &[] } else { setting.when };
            // weight decay and a layer of principal components exclude each other
            let aside: &[_] = match (recipe, setting.name) {
                (Own, "momentum" | "weight_decay") => &[("start", "identity")],
                (Published, "rank") => &[("optimizer", "adam")],
                _ => &[],
            };
            let mut options = [needed, aside].concat();
            let without = with(recipe, &options).unwrap();
            options.push((setting.name, &stated));
            let mut stated = with(recipe, &options).unwrap();
            if setting.name == "epochs" {
                stated.min_steps = without.min_steps; // a given number of epochs is exact
            }
            assert_eq!(stated, without, "{} in {recipe:?}", setting.name);
        }
    }
}

#[test]
fn texts_repeat_constants_correctly() {
    let unset = |name: &str| Setting::named(name).unwrap().unset.unwrap().1;
    assert!(unset("rank").contains(&format!("{} %", 100.0 * Settings::KEPT_ANSWERS)));
    assert!(unset("rho").contains(&format!("{} sqrt(C H W / {})", Settings::PIXEL_RHO, 3 * 32 * 32)));
}

#[test]
fn names_are_unique_and_conditions_exist() {
    for (i, setting) in SETTINGS.iter().enumerate() {
        assert!(SETTINGS[..i].iter().all(|other| other.name != setting.name), "{}", setting.name);
        assert!(!setting.about.is_empty() && !setting.about.ends_with('.'), "{}", setting.name);
        assert_eq!(setting.when.is_empty(), setting.needs.is_empty(), "{}", setting.name);
        for (name, text) in setting.when {
            Setting::named(name).unwrap().parse(text).unwrap();
        }
    }
}

#[test]
fn values_out_of_range_are_named() {
    for (name, text, problem) in [
        ("rho", "NaN", "must be finite"),
        ("lr", "inf", "must be finite"),
        ("lr", "-1", "must be at least 0"),
        ("batch", "0", "must be at least 1"),
        ("rank", "0", "must be at least 1"),
        ("lambdas", "1,1,-1,1", "must be at least 0"),
    ] {
        assert_eq!(refused(Own, &[(name, text)]), (name, problem.to_owned()));
    }
    let settings = Settings { lr: f64::NAN, ..Settings::default() };
    let e = settings.check().unwrap_err();
    assert!(e.to_string().starts_with("lr: must be finite") && e.exit_code() == 2, "{e}");
}

#[test]
fn values_with_wrong_syntax_are_refused() {
    for (name, text) in
        [("lambdas", "1,2"), ("lr", "fast"), ("batch", "-1"), ("mirror", "maybe"), ("schedule", "step")]
    {
        assert!(Setting::named(name).unwrap().parse(text).is_err(), "{name} {text}");
    }
}

#[test]
fn values_without_effect_are_refused() {
    for (recipe, options, field) in [
        (Own, &[("momentum", "0.5")][..], "momentum"),
        (Own, &[("stop_share", "0.5")], "stop_share"),
        (Own, &[("warmup", "3")], "warmup"),
        (Own, &[("warm_lr", "0.1")], "warm_lr"),
        (Own, &[("rank", "4"), ("start", "identity")], "rank"),
        (Own, &[("pool", "0"), ("inner_step", "0.2")], "inner_step"),
        (Own, &[("optimizer", "sgd")], "weight_decay"),
        (Published, &[("rank", "4")], "rank"),
        (Published, &[("targets", "random")], "targets"),
        (Published, &[("adversary", "none"), ("rho", "1")], "rho"),
        (Published, &[("adversary", "none"), ("original", "labels")], "original"),
        (Published, &[("warmup", "0"), ("warm_lr", "0.1")], "warm_lr"),
    ] {
        assert_eq!(refused(recipe, options).0, field, "{options:?}");
    }
    let (field, problem) = refused(Own, &[("momentum", "0.5"), ("stop_share", "0.5")]);
    assert!(field == "momentum" && problem.contains("nor would `stop_share`: "), "{problem}");
}

#[test]
fn settings_that_depend_on_each_other_can_be_given_together() {
    let s = with(Own, &[("momentum", "0.5"), ("optimizer", "sgd"), ("weight_decay", "0")]).unwrap();
    assert_eq!(s.optimizer, OptimizerKind::Sgd { momentum: 0.5, weight_decay: 0.0 });
    let s = with(Own, &[("inner_step", "0.2"), ("targets", "random"), ("rho", "1")]).unwrap();
    assert_eq!(s.adversary, AdversaryKind::Latent { steps: 3, rho: 1.0 });
    assert_eq!(s.pool, Some(PixelPool { images: 640, step: 0.2 }));
    let s = with(Own, &[("adversary", "pixel"), ("inner_step", "0.2")]).unwrap();
    assert_eq!(s.adversary, AdversaryKind::Pixel { steps: 3, step: 0.2, rho: None, stop_share: Some(0.6) });
    assert_eq!(s.pool.unwrap().step, 0.2);
    let s = with(Published, &[("adversary", "latent")]).unwrap();
    assert_eq!(s.adversary, AdversaryKind::Latent { steps: 2, rho: 1.4 });
    let s = with(Published, &[("inner_step", "0.3"), ("pool", "10")]).unwrap();
    assert_eq!(s.pool, Some(PixelPool { images: 10, step: 0.3 }));
    let s = with(Own, &[("start", "whitening")]).unwrap();
    assert_eq!(s.start, Start::Whitening { warmup: 0, warm_lr: 1e-4 });
    // a warm-up of 0 is allowed with any start
    with(Published, &[("start", "identity"), ("warmup", "0")]).unwrap();
    with(Published, &[("start", "principal"), ("warmup", "0"), ("weight_decay", "0")]).unwrap();
    let s = with(Published, &[("stop_share", "never"), ("max_acc_drop", "none")]).unwrap();
    assert!(s.max_acc_drop.is_none() && matches!(s.adversary, AdversaryKind::Pixel { stop_share: None, .. }));
}

#[test]
fn given_epochs_are_exact() {
    let s = with(Own, &[("epochs", "3")]).unwrap();
    assert_eq!((s.epochs, s.min_steps), (3, None));
    let s = with(Own, &[("epochs", "3"), ("min_steps", "50")]).unwrap();
    assert_eq!((s.epochs, s.min_steps), (3, Some(50)));
    assert_eq!(with(Own, &[]).unwrap().min_steps, Some(120));
}

#[test]
fn applicable_settings_are_recorded() {
    let pairs = Settings::default().pairs([3, 32, 32]);
    let of = |name: &str| pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    assert_eq!((of("start"), of("rank"), of("rho")), (Some("principal"), Some("auto"), Some("1.4")));
    assert_eq!((of("lambdas"), of("inner-steps"), of("momentum")), (Some("1,0.2,0.2,0.2"), Some("3"), None));
    let json = Settings::published().json([3, 32, 32]);
    assert_eq!((&json["rho"], &json["rank"], &json["least_steps"]), (&3.0.into(), &().into(), &0.into()));
    assert_eq!((&json["warmup"], &json["pool"]), (&5.into(), &0.into()));
    assert_eq!(Settings::default().json([3, 32, 32])["warmup"], 0);
    assert!(SETTINGS.iter().all(|setting| json.contains_key(setting.name)));
}
