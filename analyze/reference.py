"""The papers behind the metrics, each once, so that a figure can always say where its number comes from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A publication: who, what, when, and an identifier that leads to it."""

    key: str
    authors: tuple[str, ...]
    title: str
    year: int
    venue: str = ""
    arxiv: str = ""
    doi: str = ""
    url: str = ""

    @property
    def link(self) -> str:
        """Where to read it: the DOI, else arXiv, else the page itself; empty if none is known."""
        if self.doi:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    @property
    def short(self) -> str:
        """Citation in running text.

        >>> FORT_2019.short
        'Fort et al. 2019'
        """
        names = [author.split(",")[0] for author in self.authors]
        who = names[0] if len(names) == 1 else " & ".join(names) if len(names) == 2 else f"{names[0]} et al."
        return f"{who} {self.year}"

    def __str__(self) -> str:
        place = f"arXiv:{self.arxiv}" if self.arxiv else self.venue or self.url
        return f"{self.short}, {place}" if place else self.short

    def bibtex(self) -> str:
        r"""Entry for a bibliography.

        >>> print(NEYSHABUR_2017.bibtex().splitlines()[0])
        @inproceedings{neyshabur2017exploring,
        >>> print(Reference("key", ("Amodei, Dario", "OpenAI Dota Team"), "Title", 2018).bibtex().splitlines()[1])
          author = {Amodei, Dario and {OpenAI Dota Team}},
        """
        # A name that is not turned round is whole: braces keep BibTeX from looking for a surname in it.
        whole = [author if ", " in author else f"{{{author}}}" for author in self.authors]
        fields = {"author": " and ".join(whole), "title": f"{{{self.title}}}", "year": str(self.year)}
        if self.venue:
            fields["booktitle" if self._kind == "inproceedings" else "howpublished"] = self.venue
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        fields |= {name: value for name, value in (("doi", self.doi), ("url", self.link)) if value}
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{self._kind}{{{self.key},\n{body}\n}}"

    @property
    def _kind(self) -> str:
        proceedings = ("Advances", "International", "Conference", "Proceedings")
        return "inproceedings" if self.venue.startswith(proceedings) else "misc"


FORT_2019 = Reference(
    key="fort2019stiffness",
    authors=("Fort, Stanislav", "Nowak, Paweł Krzysztof", "Jastrzębski, Stanisław", "Narayanan, Srini"),
    title="Stiffness: A New Perspective on Generalization in Neural Networks",
    year=2019,
    arxiv="1901.09491",
)
WALKER_2023 = Reference(
    key="walker2023extensions",
    authors=("Walker, Thomas",),
    title="Extensions of the Methods for Understanding Neural Network Generalization",
    year=2023,
    venue="Report",
)
GAIN_2019 = Reference(
    key="gain2019abstraction",
    authors=("Gain, Alex", "Siegelmann, Hava"),
    title="Abstraction Mechanisms Predict Generalization in Deep Neural Networks",
    year=2019,
    arxiv="1905.11515",
)
GUPTA_2022 = Reference(
    key="gupta2022image",
    authors=("Gupta, Arushi",),
    title="Image Functions In Neural Networks: A Perspective On Generalization",
    year=2022,
    venue="Submission to ICLR 2022",
    url="https://openreview.net/forum?id=AawMbgacl0t",
)
NEYSHABUR_2017 = Reference(
    key="neyshabur2017exploring",
    authors=("Neyshabur, Behnam", "Bhojanapalli, Srinadh", "McAllester, David", "Srebro, Nathan"),
    title="Exploring Generalization in Deep Learning",
    year=2017,
    venue="Advances in Neural Information Processing Systems 30",
    arxiv="1706.08947",
)
BRUCKNER_2019 = Reference(
    key="bruckner2019ideas",
    authors=("Bruckner, Marcel",),
    title="Generalization Ideas in Deep Learning",
    year=2019,
    venue="Seminar report, Optimization and Generalization in Deep Learning",
)
KESKAR_2016 = Reference(
    key="keskar2016large",
    authors=(
        "Keskar, Nitish Shirish",
        "Mudigere, Dheevatsa",
        "Nocedal, Jorge",
        "Smelyanskiy, Mikhail",
        "Tang, Ping Tak Peter",
    ),
    title="On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima",
    year=2016,
    arxiv="1609.04836",
)
JIANG_2019 = Reference(
    key="jiang2019fantastic",
    authors=(
        "Jiang, Yiding",
        "Neyshabur, Behnam",
        "Mobahi, Hossein",
        "Krishnan, Dilip",
        "Bengio, Samy",
    ),
    title="Fantastic Generalization Measures and Where to Find Them",
    year=2019,
    arxiv="1912.02178",
)
