//! The page of a sweep: a table of each figure over the variants, with bars of its means.

use crate::compare::shown;
use crate::recording::Recording;
use crate::sweep::rows;

use super::html::{STYLE, escaped};

/// The page of a sweep's results: each variant's name and runs.
pub fn page(name: &str, asks: &str, results: &[(String, Vec<Recording>)]) -> String {
    let (names, rows) = rows(results);
    let mut tables = String::new();
    for (index, figure) in names.iter().enumerate() {
        let cells: Vec<_> = rows.iter().map(|row| row[index]).collect();
        if results.len() > 1 && cells.windows(2).all(|pair| pair[0] == pair[1]) {
            continue;
        }
        let most = cells.iter().flatten().map(|(mean, _)| mean.abs()).fold(0.0, f64::max);
        tables += &format!(
            "<section class=\"card\"><h2>{}</h2><div class=\"scroll\"><table class=\"bars\"><thead><tr><th>variant</th>\
             <th class=\"n\">mean</th><th class=\"n\">± 95 %</th><th></th></tr></thead><tbody>",
            escaped(figure)
        );
        for ((variant, _), cell) in results.iter().zip(&cells) {
            let (mean, margin) = cell.unzip();
            let number = |value: Option<f64>| value.map_or("—".to_owned(), shown);
            let width = mean.map_or(0.0, |mean| mean.abs() / most.max(f64::MIN_POSITIVE) * 100.0);
            tables += &format!(
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"bar\">\
                 <i style=\"width:{width:.1}%\"></i></td></tr>",
                escaped(variant),
                number(mean),
                number(margin.flatten())
            );
        }
        tables += "</tbody></table></div></section>";
    }
    let (name, asks) = (escaped(name), escaped(asks));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{name}, varied</title>\
         <style>{STYLE}</style><body><header><p class=\"kicker\">Hansa simulation, a sweep</p>\
         <h1>{name}</h1><p class=\"asks\">{asks}</p></header><main>{tables}</main></body></html>"
    )
}
