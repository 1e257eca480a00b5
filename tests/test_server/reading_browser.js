function look(doc) {
  const view = doc.defaultView, found = {};
  const seen = e => e.checkVisibility({visibilityProperty: true}) && !e.closest('.unseen, .skip');
  const all = s => [...doc.querySelectorAll(s)];
  const told = e => e.tagName + ' ' + (e.textContent || '').trim().slice(0, 40);
  const name = e => (e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby') &&
    doc.getElementById(e.getAttribute('aria-labelledby'))?.textContent) || e.textContent || '').trim();
  const color = text => {
    const [r, g, b, a] = text.match(/[\d.]+/g).map(Number);
    return [r, g, b, a === undefined ? 1 : a];
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const style = view.getComputedStyle(e);
      if (style.backgroundImage !== 'none') {
        return [...style.backgroundImage.matchAll(/rgba?\([^)]*\)/g)].map(m => color(m[0]));
      }
      const flat = color(style.backgroundColor);
      if (flat[3] > 0) return [flat];
    }
    return [[255, 255, 255, 1]];
  };
  const light = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const texts = all('body *').filter(e => seen(e) && !e.closest('svg') &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  found.pale = texts.filter(e => behind(e).some(
    b => contrast(color(view.getComputedStyle(e).color), b) < 4.5)).map(told);
  found.paleDrawn = all('svg text').filter(e => seen(e) && behind(e.closest('svg').parentElement).some(
    b => contrast(color(view.getComputedStyle(e).fill), b) < 4.5)).map(told);
  found.small = texts.filter(e => !e.closest('[aria-hidden]') && parseFloat(view.getComputedStyle(e).fontSize) < 10.9).map(told);
  found.texts = texts.length;
  found.overflow = doc.documentElement.scrollWidth - view.innerWidth;
  found.levels = all('h1, h2, h3, h4').map(e => Number(e.tagName[1]));
  found.unnamed = all('a, summary, nav, [role], [tabindex], section').filter(
    e => !['presentation', 'alert'].includes(e.getAttribute('role')) && !name(e)).map(e => e.outerHTML.slice(0, 80));
  found.dangling = all('a[href^="#"]').filter(e => !doc.querySelector(e.getAttribute('href'))).map(told);
  found.unreachable = all('.scroll').filter(e => e.scrollWidth > e.clientWidth + 1 && e.tabIndex !== 0).map(told);
  found.bareTables = all('table').filter(e => !e.caption || !e.tHead).map(told);
  found.bareHeads = all('th:not([scope])').map(told);
  found.unspoken = all('svg').filter(e => !e.parentElement.closest('svg') &&
    e.getAttribute('aria-hidden') !== 'true' && !name(e)).map(told);
  found.fetched = view.performance.getEntriesByType('resource').length;
  found.scripts = doc.scripts.length;
  found.dark = view.matchMedia('(prefers-color-scheme: dark)').matches;
  found.language = doc.documentElement.lang;
  found.main = all('main').length;
  const link = doc.querySelector('a');
  found.firstLink = link.getAttribute('href');
  link.focus();
  found.skipShows = link.getBoundingClientRect().left >= 0;
  found.styled = view.getComputedStyle(doc.body).marginTop === '0px';
  return found;
}
const frame = document.querySelector('iframe');
frame.addEventListener('load', () => {
  document.querySelector('#found').textContent = JSON.stringify(look(frame.contentDocument));
});
