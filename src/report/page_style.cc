// How report pages look. Contrast: text at least 4.5 to 1, marks at least 3 to 1 on their background, light and dark.

#include <array>

#include "report/html_page.h"
#include "report/svg.h"

namespace diffulex_edge {

std::string_view page_style() {
  return R"css(
:root{color-scheme:light dark;--page:#fff;--card:#f5f6f8;--text:#1b1f27;--soft:#555d6b;--line:#dfe3e8;--axis:#7d8795;
--warn:#fff3d6;--warn-line:#c98a00;--shadow:rgba(20,30,50,.38);--s0:#5b6472;--s1:#0067a5;--s2:#0a7d4f;--s3:#c24e00;--s4:#7a3fa0;--s5:#b3124f;--s6:#00767d}
@media(prefers-color-scheme:dark){:root{--page:#14171c;--card:#1e2229;--text:#e9ecf1;--soft:#a9b1bd;--line:#333a44;
--axis:#7f8a98;--warn:#3a2f14;--warn-line:#d9a531;--shadow:rgba(165,185,215,.42);--s0:#aab3c0;--s1:#62b6f0;--s2:#4ccb94;--s3:#ff9d52;--s4:#c79bec;
--s5:#ff7fa8;--s6:#43cdd3}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1.5rem clamp(.9rem,3vw,2.5rem) 3rem;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.55rem;line-height:1.25;margin:0}
h2{font-size:1.2rem;margin:2.6rem 0 .4rem;padding-top:1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.8rem 0 .2rem}
p{margin:.3rem 0 .9rem;max-width:46rem}
header p{max-width:none}
header p,main>p,.note,footer{color:var(--soft)}
footer{margin-top:3rem;font-size:.85rem}
main>.verdict{font-size:1.15rem;line-height:1.45;color:var(--text);max-width:54rem;margin:1.1rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.75rem;margin:1.2rem 0}
.tiles>div{background:var(--card);border-radius:.6rem;padding:.7rem .9rem}
.tiles dt{font-size:.85rem;color:var(--soft)}
.tiles dd{margin:0;font-size:.85rem;color:var(--soft)}
.tiles .value{font-size:1.45rem;font-weight:600;line-height:1.35;color:var(--text);font-variant-numeric:tabular-nums}
.warnings{background:var(--warn);border-left:4px solid var(--warn-line);border-radius:.3rem;padding:.6rem 1rem;margin:1rem 0}
.warnings h2{margin:0;padding:0;border:0;font-size:1rem}
.warnings ul{margin:.3rem 0 0;padding-left:1.2rem;max-height:14rem;overflow-y:auto}
/* A shadow at each edge behind which a table goes on, and a bar that is always seen. */
.scroll{overflow-x:auto;margin:.6rem 0;background:linear-gradient(to right,var(--page) 50%,transparent) 0 0/48px 100% local,
linear-gradient(to left,var(--page) 50%,transparent) 100% 0/48px 100% local,
linear-gradient(to right,var(--shadow),transparent) 0 0/18px 100% scroll,
linear-gradient(to left,var(--shadow),transparent) 100% 0/18px 100% scroll;background-repeat:no-repeat}
.scroll::-webkit-scrollbar{height:9px}
.scroll::-webkit-scrollbar-track{background:var(--card)}
.scroll::-webkit-scrollbar-thumb{background:var(--axis);border-radius:5px}
@supports not selector(::-webkit-scrollbar){.scroll{scrollbar-color:var(--axis) var(--card);scrollbar-width:thin}}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .55rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{padding-left:0}
th{font-weight:600;color:var(--soft);white-space:normal;overflow-wrap:normal;vertical-align:bottom}
.n{text-align:right}
.w{white-space:normal;overflow-wrap:normal;min-width:8rem}
.facts{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.25rem 1.2rem;margin:.6rem 0}
.facts dt{color:var(--soft)}
.facts dd{margin:0;min-width:0}
.terms{font-size:.875rem}
.terms dd{color:var(--soft);max-width:46rem}
.terms dt{color:var(--text);font-weight:600}
@media(max-width:32rem){.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:.5rem}}
pre{white-space:pre-wrap;background:var(--card);border-radius:.4rem;padding:.6rem .8rem;margin:.5rem 0;
font:13px/1.5 ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre span{display:inline-block;max-width:100%}
details{margin:.8rem 0}
summary{cursor:pointer;color:var(--s1)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:.6rem 0;padding:0;font-size:.9rem}
.legend li{display:flex;align-items:center;gap:.45rem}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,16rem),1fr));gap:.4rem 1.6rem}
.panels.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr))}
.panels.wide>.chart:only-child{max-width:46rem}
.chart{margin:.8rem 0;min-width:0}
.chart figcaption{font-weight:600;font-size:.95rem}
.y-label{font-size:13px;color:var(--soft);margin-bottom:.5rem}
.plot{padding:4px 8px 0 52px}
.plot.wide{padding-left:14px;padding-right:14px;max-width:46rem}
.plot>svg,.point,.at{display:block;overflow:visible}
.note{font-size:.85rem;margin:0}
svg text{font-size:12.5px;fill:var(--soft)}
svg .label,svg .bar-label,svg .point-label{font-size:13px}
svg .bar-label,svg .point-label{fill:var(--text)}
.point-label,.bar-label,.tick.end{paint-order:stroke;stroke:var(--page);stroke-width:4px;stroke-linejoin:round}
.middle{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:var(--line)}.axis{stroke:var(--axis)}.leader{stroke:var(--axis)}
.reference{stroke:var(--text);stroke-dasharray:5 4}
.bracket{stroke:var(--text);stroke-width:2}
.series{stroke:var(--c);stroke-width:2}.whisker{stroke:var(--c);stroke-width:1.5}
.point g{fill:var(--c);stroke:var(--page);stroke-width:1}
.outline.point g{fill:var(--page);stroke:var(--c);stroke-width:1.7}
.small .point g{transform:scale(.65)}
.area{fill:var(--f)}
.hollow{fill:none;stroke:var(--c);stroke-dasharray:3 3}
.mark:hover{filter:brightness(1.25)}
.s0{--c:var(--s0);--f:var(--s0)}.s1{--c:var(--s1);--f:url(#p1)}.s2{--c:var(--s2);--f:url(#p2)}
.s3{--c:var(--s3);--f:url(#p3)}.s4{--c:var(--s4);--f:url(#p4)}.s5{--c:var(--s5);--f:url(#p5)}
.s6{--c:var(--s6);--f:url(#p6)}
@media print{details{display:none}}
)css";
}

std::string page_patterns() {
  // Lighter strokes over the style's colour; grey is plain.
  constexpr std::array kStrokes = {
      "M-2 2L2-2M0 8L8 0M6 10L10 6",  // blue: rising lines
      "M0 0L8 8M-2 6L2 10M6-2L10 2",  // green: falling lines
      "",                             // orange: plain, for what is most often drawn
      "M0 4H8",                       // purple: level lines
      "M4 0V8",                       // red: upright lines
      "M4 0V8M0 4H8",                 // teal: a grid
  };
  std::string html = "<svg width=\"0\" height=\"0\" style=\"position:absolute\" aria-hidden=\"true\"><defs>";
  for (std::size_t i = 0; i < kStrokes.size(); ++i) {
    const std::string number = std::to_string(i + 1);
    html += "<pattern id=\"p";
    html += number;
    html += "\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\"><path d=\"M0 0H8V8H0Z\" style=\"fill:var(--s";
    html += number;
    html += ")\"/><path d=\"";
    html += kStrokes.at(i);
    html += "\" style=\"stroke:var(--page);stroke-width:1.3;stroke-opacity:.5;fill:none\"/></pattern>";
  }
  return html + "</defs></svg>";
}

}  // namespace diffulex_edge
