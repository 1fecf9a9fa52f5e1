"""Chain datasets: public sets, images and the icon world come in, examples with chains go out. Knows no network."""
