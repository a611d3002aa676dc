"""The papers that models and objectives come from, for citations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A reference; `bibtex()` gives it in the form that papers need."""

    key: str
    authors: str
    title: str
    venue: str
    year: int

    def bibtex(self) -> str:
        """The BibTeX entry."""
        kind, place = ("misc", "howpublished") if self.venue == "software" else ("inproceedings", "booktitle")
        return (
            f"@{kind}{{{self.key},\n  author = {{{self.authors}}},\n  title = {{{self.title}}},\n"
            f"  {place} = {{{self.venue}}},\n  year = {{{self.year}}}\n}}"
        )

    def __str__(self) -> str:
        first, *others = self.authors.split(" and ")
        comma = "," if self.venue == "software" or self.venue[-1].isdecimal() else ""
        return f"{first.strip('{}')}{' et al.' if others else ''}, “{self.title}”, {self.venue}{comma} {self.year}"


DMI = Paper(
    "dmi",
    "Le, Yankun and Li, Haoran and Qin, Yingjie and Yang, Zhixuan and Zhang, Fu and Ou, Baoyuan and Su, Ruilong",
    "Diffusion Model for Interest Refinement in Multi-Interest Recommendation",
    "arXiv:2502.05561",
    2025,
)
COMIREC = Paper(
    "comirec",
    "Cen, Yukuo and Zhang, Jianwei and Zou, Xu and Zhou, Chang and Yang, Hongxia and Tang, Jie",
    "Controllable Multi-Interest Framework for Recommendation",
    "KDD",
    2020,
)
REMI = Paper(
    "remi",
    "Xie, Yueqi and Gao, Jingqi and Zhou, Peilin and Ye, Qichen and Hua, Yining and others",
    "Rethinking Multi-Interest Learning for Candidate Matching in Recommender Systems",
    "RecSys",
    2023,
)
YOUTUBE_DNN = Paper(
    "youtube-dnn",
    "Covington, Paul and Adams, Jay and Sargin, Emre",
    "Deep Neural Networks for YouTube Recommendations",
    "RecSys",
    2016,
)
ITEM_KNN = Paper(
    "item-knn",
    "Sarwar, Badrul and Karypis, George and Konstan, Joseph and Riedl, John",
    "Item-Based Collaborative Filtering Recommendation Algorithms",
    "WWW",
    2001,
)
POPREC = Paper(
    "pop",
    "Cremonesi, Paolo and Koren, Yehuda and Turrin, Roberto",
    "Performance of Recommender Algorithms on Top-N Recommendation Tasks",
    "RecSys",
    2010,
)
GRU4REC = Paper(
    "gru4rec",
    "Hidasi, Balázs and Karatzoglou, Alexandros and Baltrunas, Linas and Tikk, Domonkos",
    "Session-based Recommendations with Recurrent Neural Networks",
    "ICLR",
    2016,
)
MIND = Paper(
    "mind",
    "Li, Chao and Liu, Zhiyuan and Wu, Mengmeng and Xu, Yuchi and Zhao, Huan and others",
    "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall",
    "CIKM",
    2019,
)
RE4 = Paper(
    "re4",
    "Zhang, Shengyu and Yang, Lingxiao and Yao, Dong and Lu, Yujie and Feng, Fuli and others",
    "Re4: Learning to Re-contrast, Re-attend, Re-construct for Multi-interest Recommendation",
    "WWW",
    2022,
)
PIMIREC = Paper(
    "pimirec",
    "Chen, Gaode and Zhang, Xinghua and Zhao, Yanyan and Xue, Cong and Xiang, Ji",
    "Exploring Periodicity and Interactivity in Multi-Interest Framework for Sequential Recommendation",
    "IJCAI",
    2021,
)
EASE = Paper(
    "ease",
    "Steck, Harald",
    "Embarrassingly Shallow Autoencoders for Sparse Data",
    "WWW",
    2019,
)
DIFFREC = Paper(
    "diffrec",
    "Wang, Wenjie and Xu, Yiyan and Feng, Fuli and Lin, Xinyu and He, Xiangnan and Chua, Tat-Seng",
    "Diffusion Recommender Model",
    "SIGIR",
    2023,
)
CDAE = Paper(
    "cdae",
    "Wu, Yao and DuBois, Christopher and Zheng, Alice X. and Ester, Martin",
    "Collaborative Denoising Auto-Encoders for Top-N Recommender Systems",
    "WSDM",
    2016,
)
MULT_VAE = Paper(
    "mult-vae",
    "Liang, Dawen and Krishnan, Rahul G. and Hoffman, Matthew D. and Jebara, Tony",
    "Variational Autoencoders for Collaborative Filtering",
    "WWW",
    2018,
)
CODIGEM = Paper(
    "codigem",
    "Walker, Joojo and Zhong, Ting and Zhang, Fengli and Gao, Qiang and Zhou, Fan",
    "Recommendation via Collaborative Diffusion Generative Model",
    "KSEM",
    2022,
)
ACVAE = Paper(
    "acvae",
    "Xie, Zhe and Liu, Chengxuan and Zhang, Yichi and Lu, Hongtao and Wang, Dong and Ding, Yue",
    "Adversarial and Contrastive Variational Autoencoder for Sequential Recommendation",
    "WWW",
    2021,
)
DIFFACET = Paper(
    "diffacet",
    "{The diffacet authors}",
    "diffacet: recommendation by diffusion on interests",
    "software",
    2026,
)
BPR = Paper(
    "bpr",
    "Rendle, Steffen and Freudenthaler, Christoph and Gantner, Zeno and Schmidt-Thieme, Lars",
    "BPR: Bayesian Personalized Ranking from Implicit Feedback",
    "UAI",
    2009,
)
LIGHTGCN = Paper(
    "lightgcn",
    "He, Xiangnan and Deng, Kuan and Wang, Xiang and Li, Yan and Zhang, Yongdong and Wang, Meng",
    "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation",
    "SIGIR",
    2020,
)
ALS = Paper(
    "als",
    "Hu, Yifan and Koren, Yehuda and Volinsky, Chris",
    "Collaborative Filtering for Implicit Feedback Datasets",
    "ICDM",
    2008,
)
SASREC = Paper(
    "sasrec",
    "Kang, Wang-Cheng and McAuley, Julian",
    "Self-Attentive Sequential Recommendation",
    "ICDM",
    2018,
)
DREAMREC = Paper(
    "dreamrec",
    "Yang, Zhengyi and Wu, Jiancan and Wang, Zhicai and Wang, Xiang and Yuan, Yancheng and He, Xiangnan",
    "Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion",
    "NeurIPS",
    2023,
)
DIFFUREC = Paper(
    "diffurec",
    "Li, Zihao and Sun, Aixin and Li, Chenliang",
    "DiffuRec: A Diffusion Model for Sequential Recommendation",
    "ACM TOIS",
    2023,
)
DIMEREC = Paper(
    "dimerec",
    "Li, Wuchao and Huang, Rui and Zhao, Haijun and Liu, Chi and Zheng, Kai and others",
    "DimeRec: A Unified Framework for Enhanced Sequential Recommendation via Generative Diffusion Models",
    "WSDM",
    2025,
)
DIFFUMIN = Paper(
    "diffumin",
    "Lai, Weijiang and Jin, Beihong and Zhang, Jiongyan and Zheng, Yiyuan and Dong, Jian and Cheng, Jia and others",
    "Modeling Long-term User Behaviors with Diffusion-driven Multi-interest Network for CTR Prediction",
    "RecSys",
    2025,
)
DIN = Paper(
    "din",
    "Zhou, Guorui and Zhu, Xiaoqiang and Song, Chenru and Fan, Ying and Zhu, Han and Ma, Xiao and others",
    "Deep Interest Network for Click-Through Rate Prediction",
    "KDD",
    2018,
)
CAN = Paper(
    "can",
    "Bian, Weijie and Wu, Kailun and Ren, Lejian and Pi, Qi and Zhang, Yujing and Xiao, Can and others",
    "CAN: Feature Co-Action Network for Click-Through Rate Prediction",
    "WSDM",
    2022,
)
SIM = Paper(
    "sim",
    "Pi, Qi and Zhou, Guorui and Zhang, Yujing and Wang, Zhe and Ren, Lejian and Fan, Ying and others",
    "Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through Rate Prediction",
    "CIKM",
    2020,
)
ETA = Paper(
    "eta",
    "Chen, Qiwei and Pei, Changhua and Lv, Shanshan and Li, Chao and Ge, Junfeng and Ou, Wenwu",
    "End-to-End User Behavior Retrieval in Click-Through Rate Prediction Model",
    "arXiv:2108.04468",
    2021,
)
SDIM = Paper(
    "sdim",
    "Cao, Yue and Zhou, Xiaojiang and Feng, Jiaqi and Huang, Peihao and Xiao, Yao and Chen, Dayao and Chen, Sheng",
    "Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR Prediction",
    "CIKM",
    2022,
)
TWIN = Paper(
    "twin",
    "Chang, Jianxin and Zhang, Chenbin and Fu, Zhiyi and Zang, Xiaoxue and Guan, Lin and Lu, Jing and others",
    "TWIN: TWo-stage Interest Network for Lifelong User Behavior Modeling in CTR Prediction at Kuaishou",
    "KDD",
    2023,
)
TWIN_V2 = Paper(
    "twin-v2",
    "Si, Zihua and Guan, Lin and Sun, Zhongxiang and Zang, Xiaoxue and Lu, Jing and Hui, Yiqun and others",
    "TWIN V2: Scaling Ultra-Long User Behavior Sequence Modeling for Enhanced CTR Prediction at Kuaishou",
    "CIKM",
    2024,
)
LOGISTIC = Paper(
    "logistic",
    "Richardson, Matthew and Dominowska, Ewa and Ragno, Robert",
    "Predicting Clicks: Estimating the Click-Through Rate for New Ads",
    "WWW",
    2007,
)
