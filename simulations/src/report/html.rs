//! The page: its style, its script and a run's data, all in one file that loads nothing.

use serde_json::json;

use crate::recording::Recording;
use crate::store::Manifest;

/// The page, but for its data.
const PAGE: &str = include_str!("page.html");
/// How it looks, by day and by night.
pub(super) const STYLE: &str = include_str!("page.css");
/// What draws its charts.
const CHARTS: &str = include_str!("charts.js");
/// What draws its map and plays the replay.
const MAP: &str = include_str!("map.js");

/// The page of some runs of one scenario. The first seed's replay is in it, if there is one.
pub(super) fn page(manifest: &Manifest, runs: &[Recording]) -> String {
    let mut runs = runs.to_vec();
    for run in runs.iter_mut().skip(1) {
        run.replay = None;
    }
    let summaries: Vec<_> = runs.iter().map(Recording::summary).collect();
    let data = json!({ "manifest": manifest, "runs": runs, "summaries": summaries });
    // Whatever a name holds, it cannot end the script that holds it.
    let data = data.to_string().replace('<', "\\u003c");
    let title = escaped(&manifest.name);
    PAGE.replace("{{title}}", &title)
        .replace("{{style}}", STYLE)
        .replace("{{charts}}", CHARTS)
        .replace("{{map}}", MAP)
        .replace("{{data}}", &data)
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_and_no_name_breaks_out_of_it() {
        let manifest = Manifest {
            name: "</script><b>x".into(),
            asks: "</script>".into(),
            expect: String::new(),
            digest: String::new(),
            version: String::new(),
        };
        let page = page(&manifest, &[Recording::default()]);
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
        for outside in ["src=\"http", "href=\"http", "url(http", "@import", "fetch("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("{{"), "a part is left out");
    }
}
