"""What tests of pages ask a page."""

# Texts whose contrast with their background is below AA, with the ratio.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') return color;
    }
    return 'white';
  };
  return [...document.querySelectorAll('p, li, th, td, a, h1, h2, h3, figcaption, button, label, .ends, .note, dt, dd')]
    .filter((element) => element.checkVisibility() && element.textContent.trim())
    .map((element) => {
      const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), element.tagName + '.' + element.className];
    }).filter(([ratio]) => ratio < 4.5).slice(0, 5);
}"""

# Controls that a screen reader has no name for.
NAMELESS = """() => {
  const named = (element) => element.labels?.length || element.getAttribute('aria-label') || element.title
    || element.getAttribute('aria-labelledby') || element.textContent.trim()
    || (element.tagName === 'IMG' && element.hasAttribute('alt'));
  return [...document.querySelectorAll('button, a, input, select, textarea, [tabindex="0"], img, dialog')]
    .filter((element) => element.checkVisibility() && !named(element)).map((element) => element.outerHTML.slice(0, 80));
}"""
